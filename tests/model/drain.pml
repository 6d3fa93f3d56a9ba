/* S3 and S4: when nobody can move any more, undisturbed cycles leave nothing that no snapshot needs; and without
 * late requests every writer that did not crash was told "saved". */
inline drain_cycle(to_run, is_adding) {
  if :: !gc_condemning -> gc_n = gc_n + 1; gc_condemning = 1; gc_condemned = packs; gc_known = 0; gc_etag = gc_etag + 1 :: else fi;
  need = 0; roster = 0;
  for (r_ : 0 .. REGISTERS - 1) {
    if
    :: REG_VALID(r_, gc_floor, gc_roster) && (reg_state[r_] == OPEN || reg_state[r_] == FENCED) && HAS_RECORD(r_) -> write_register(r_, COMMITTED, 0, 0)
    :: REG_VALID(r_, gc_floor, gc_roster) && reg_state[r_] == OPEN && !HAS_RECORD(r_) -> write_register(r_, FENCED, 0, 0)
    :: else
    fi;
    if :: REG_VALID(r_, gc_floor, gc_roster) && LIVE(r_) -> need = need | reg_needs[r_]; roster = roster | BIT(r_) :: else fi
  };
  load_now(listed, gc_floor, gc_base); listed = listed & ~gc_dead; kept = 0;
  for (c_ : 0 .. 2) {
    if
    :: IN(need, c_) ->
       pick_ = NOTHING; find_pack(pick_, listed & (~gc_condemned | kept), c_); find_pack(pick_, listed, c_);
       assert(pick_ != NOTHING);
       if :: IN(gc_condemned, pick_) -> kept = kept | BIT(pick_) :: else fi
    :: else
    fi
  };
  dead = gc_condemned & ~kept;
  if
  :: is_adding ->
     in_base = 0; fresh = 0;
     for (k_ : 0 .. RUNS - 1) {
       if
       :: IN(gc_base, k_) -> in_base = in_base | run_packs[k_]
       :: IN(runs, k_) && !IN(gc_base, k_) && run_gen[k_] >= gc_floor -> fresh = fresh | run_packs[k_]
       :: else
       fi
     };
     run_packs[to_run] = fresh & ~gc_dead & ~dead; gc_base = gc_base | BIT(to_run); gc_dead = dead | (gc_dead & in_base)
  :: else -> run_packs[to_run] = listed & ~dead; gc_base = BIT(to_run); gc_dead = dead
  fi;
  runs = runs | BIT(to_run); run_gen[to_run] = gc_n;
  gc_condemning = 0; gc_condemned = 0; gc_known = 0; gc_floor = gc_n; gc_roster = roster; gc_etag = gc_etag + 1;
  packs = packs & ~gc_dead; runs = runs & gc_base;
#ifdef OBJECTS
  refs = refs & roster; records = records & roster;
#endif
  for (r_ : 0 .. REGISTERS - 1) { if :: reg_state[r_] != ABSENT && !IN(roster, r_) -> delete_register(r_) :: else fi };
  check()
}
inline nothing_left() {
  for (k_ : 0 .. PACKS - 1) { assert(!IN(packs, k_) || (pack_chunks[k_] & need) != 0) };
  load_now(listed, gc_floor, gc_base);
  assert(runs == gc_base && (packs & ~listed) == 0);
#ifdef OBJECTS
  assert(refs == roster && records == roster);
#endif
  for (r_ : 0 .. REGISTERS - 1) { assert(reg_state[r_] == ABSENT || LIVE(r_)) };
  k_ = 0
}
active proctype Drain() {
  byte need, roster, listed, kept, dead, in_base, fresh;
  timeout ->
  d_step {
#if LATE == 0 && PRUNES == 1 && WRITERS > 0
    assert(IN(crashed, 0) || ((told | REOPENED) & 6) != 0);
#if WRITERS > 1
    assert(IN(crashed, 1) || (told & 24) != 0);
#endif
#endif
#ifdef BASES
    drain_cycle(10, true); drain_cycle(11, true); nothing_left();
#else
    drain_cycle(10, false); drain_cycle(11, false);
#endif
    drain_cycle(9, false); nothing_left()
  }
}
