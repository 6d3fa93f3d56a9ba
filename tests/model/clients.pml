/* Who is neither a backup nor a prune. */

#ifdef FORGET
proctype Forget() {
  if
  :: d_step { IS_AT(0, 1) -> write_register(0, FORGOTTEN, 0, 0); check(); printf("F forgets snapshot 0\n") }
  :: !IS_AT(0, 1)
  :: d_step { MAY_HANG -> hang(LATE_SWAP, 0, 1, FORGOTTEN, 0, 0) }
  fi;
#ifdef UNDELETE
  if
  :: skip
  :: d_step { reg_state[0] == FORGOTTEN -> write_register(0, COMMITTED, 0, 0); told = told | 1; check(); printf("F brings snapshot 0 back\n") }
  :: d_step { MAY_HANG && reg_state[0] == FORGOTTEN -> hang(LATE_SWAP, 0, reg_etag[0], COMMITTED, 0, 0) }
  fi
#else
  skip
#endif
}
#endif

#ifdef RESTORE
/* Reads chunk b of snapshot 5, which nobody forgets, and the record of snapshot 0, which may go meanwhile. */
proctype Restore() {
  byte floor, dead, listed; short base, runs_seen;
#ifdef OBJECTS
  if
  :: d_step { LIVE(0) -> listed = 1 }; if :: IN(records, 0) :: d_step { !IN(records, 0) -> assert(!LIVE(0)) } fi
  :: !LIVE(0)
  fi;
#endif
look:
  atomic { floor = gc_floor; base = gc_base; dead = gc_dead; listed = 0; runs_seen = 0; printf("R reads floor %d, base %d\n", floor, base) };
  d_step { list_runs(runs_seen, floor, base) };
  d_step {
    if :: (runs_seen & ~runs) != 0 -> listed = NOTHING :: else -> load_runs(listed, runs_seen); listed = listed & ~dead; floor = 0; base = 0; dead = 0 fi;
    runs_seen = 0
  };
  if :: listed == NOTHING -> goto look :: else fi;
  d_step {
    pick_ = NOTHING; find_pack(pick_, listed, 1);
#ifndef LAG
    assert(pick_ != NOTHING); /* whoever has loaded everything misses nothing of a committed snapshot */
#endif
    if :: pick_ != NOTHING && IN(packs, pick_) -> listed = 1 :: else -> listed = 0 fi
  };
  if :: listed == 0 -> goto look :: else -> listed = 0 fi
}
#endif

#ifdef MERGE
#define FIRST_INPUT k_ = 0; do :: !IN(inputs, k_) -> k_++ :: else -> break od
/* While packs are condemned, the merged run of a prune is a valid run like any other, until the doom makes it the
 * base: whoever took it for an input would delete the base. After the doom no run of that generation becomes one. */
#ifdef BUG_MERGE_WHILE_CONDEMNED
#define MAY_MERGE true
#else
#define MAY_MERGE !gc_condemning
#endif
/* A session that merges runs, and then deletes the inputs; deletes may be refused, or land later. */
proctype Merge() {
  byte gen, floor, dead, merged; short base, inputs;
  gen = gc_n;
  d_step { reg_state[6] == ABSENT -> create_register(6, gen); check() };
  if
  :: d_step { gc_n == gen && MAY_MERGE -> floor = gc_floor; base = gc_base | gc_known; dead = gc_dead }
  :: !(gc_n == gen && MAY_MERGE) -> goto end
  fi;
  d_step {
    list_runs(inputs, floor, base); inputs = inputs & ~base;
#ifndef BUG_MERGE_NEWER
    for (k_ : 0 .. RUNS - 1) { if :: IN(inputs, k_) && run_gen[k_] > gen -> inputs = inputs & ~BIT(k_) :: else fi }
#endif
    skip
  };
  d_step {
    load_runs(merged, inputs);
    if :: (inputs & ~runs) != 0 -> inputs = 0 :: else fi;
#ifdef BUG_MERGE_DROPS_CONDEMNED
    dead = dead | gc_condemned;
#endif
    merged = merged & ~dead; floor = 0; base = 0; dead = 0
  };
  if :: inputs == 0 -> goto end :: else fi;
  if
  :: d_step { run_packs[9] = merged; put_run(9, gen); check(); printf("M PUT run 9 of generation %d, merged from runs %d\n", gen, inputs) }
#ifdef BUG_MERGE_IN_DOUBT
  :: d_step { MAY_HANG -> run_packs[9] = merged; hang(LATE_RUN, 9, 0, 0, gen, 0); check() }
#else
  :: d_step { MAY_DOUBLE -> run_packs[9] = merged; put_run(9, gen); hang(LATE_RUN, 9, 0, 0, gen, 0); check() }
#endif
  fi;
  merged = 0;
  do
  :: d_step { inputs != 0 -> FIRST_INPUT; runs = runs & ~BIT(k_); inputs = inputs & ~BIT(k_); printf("M DELETE run %d\n", k_); check() }
  :: d_step { MAY_HANG && inputs != 0 -> FIRST_INPUT; hang(LATE_RUN_DELETE, k_, 0, 0, 0, 0); inputs = inputs & ~BIT(k_) }
#ifdef REFUSED
  :: d_step { inputs != 0 -> FIRST_INPUT; inputs = inputs & ~BIT(k_); printf("M may not delete run %d\n", k_) }
#endif
  :: inputs == 0 -> break
  od;
end:
  atomic { gen = 0; floor = 0; dead = 0; merged = 0; base = 0; inputs = 0;
    if :: reg_state[6] == OPEN -> write_register(6, FENCED, 0, 0) :: else fi }
}
#endif

#ifdef ABANDON
proctype Abandon() {
end_abandon: /* there may be none */
  d_step { gc_condemning -> abandon(); check(); printf("X abandons generation %d\n", gc_n) }
}
#endif

#if defined(REPAIR) || defined(REVIVE)
/* The register of a committed snapshot is gone, which nothing here does: a disk, or a person. */
proctype Accident() {
  d_step { reg_state[0] == COMMITTED -> delete_register(0); told = told & ~1; check(); printf("X loses register 0\n") }
}
#endif

#ifdef REOPEN
/* The register of a committed snapshot is lost, and the create that made it lands a second time: it counts, for
 * no cycle has ended in between. */
proctype Reopen() {
end_reopen:
  if
  :: d_step { reg_state[0] == COMMITTED -> reg_state[0] = OPEN; reg_ack[0] = 0; reg_keep[0] = 0; reg_etag[0] = 200; reopened = 1;
       told = told & ~1; check(); printf("X loses register 0, and its create lands again\n") }
  :: d_step { IN(told, 1) && reg_state[1] == COMMITTED -> reg_state[1] = OPEN; reg_ack[1] = reg_gen[1]; reg_keep[1] = 0;
       reg_etag[1] = ETAG_CREATED; reopened = 2; told = told & ~2; check(); printf("X loses register 1, and its create lands again\n") }
  fi
}
#endif

#ifdef FINISH
/* `repair snapshots`: a register that counted when gc/state was read, and is OPEN beside a record, is committed; then it
 * reads gc/state again, and reports it only if it still counts. */
#ifdef BUG_FINISHED_UNSEEN
#define IS_SEEN(r) true
#else
#define IS_SEEN(r) REG_VALID(r, gc_floor, gc_roster)
#endif
proctype Finish() {
  byte r = NOTHING, floor, roster;
  atomic { floor = gc_floor; roster = gc_roster };
end_finish:
  if
  :: d_step { reg_state[0] == OPEN && IN(records, 0) && REG_VALID(0, floor, roster) -> r = 0 }
  :: d_step { reg_state[1] == OPEN && IN(records, 1) && REG_VALID(1, floor, roster) -> r = 1 }
  fi;
  if
  :: d_step { reg_state[r] == OPEN -> write_register(r, COMMITTED, 0, 0); check(); printf("X commits register %d\n", r) }
  :: d_step { MAY_DOUBLE && reg_state[r] == OPEN -> hang(LATE_SWAP, r, reg_etag[r], COMMITTED, 0, 0); write_register(r, COMMITTED, 0, 0); check() }
  :: reg_state[r] != OPEN -> goto end
  fi;
  if
  :: d_step { reg_state[r] == COMMITTED && IS_SEEN(r) -> told = told | BIT(r); check(); printf("X reports register %d\n", r) }
  :: !(reg_state[r] == COMMITTED && IS_SEEN(r))
  fi;
end:
  atomic { r = 0; floor = 0; roster = 0 }
}
#endif

#ifdef REVIVE
/* `repair snapshots`: any cycle is abandoned, everything is there, the register is created COMMITTED; a cycle that was
 * published meanwhile is abandoned, and one that has ended meanwhile has made the register void. */
proctype Revive() {
  byte n, floor, dead; short base;
  reg_state[0] == ABSENT;
  d_step { abandon(); n = gc_n; floor = gc_floor; base = gc_base; dead = gc_dead; check(); printf("X reads generation %d, which is idle now\n", n) };
  d_step { load_now(set_, floor, base); set_ = set_ & ~dead & packs; chunks_of(have_, set_); dead = have_; floor = 0; base = 0 };
  if :: (dead & 3) != 3 -> goto end :: else -> dead = 0 fi;
#ifdef OBJECTS
  if :: IN(refs, 0) && IN(records, 0) :: !(IN(refs, 0) && IN(records, 0)) -> goto end fi;
#endif
  d_step { create_register(7, n); reg_state[7] = COMMITTED; check(); printf("X makes register 7 of generation %d\n", n) };
#ifndef BUG_REVIVE_UNSEEN
  d_step { abandon(); check() };
  if :: !REG_VALID(7, gc_floor, gc_roster) -> goto end :: else fi;
#endif
  d_step { told = told | BIT(7); check(); printf("X reports register 7\n") };
end:
  atomic { n = 0; dead = 0 }
}
#endif

#ifdef REPAIR
/* What a repair makes of the record is a session like any other, under a new id: it finds every chunk in the index
 * that a writer may trust, or gives up; it answers for its packs while prune runs; it commits by swap. */
proctype Repair() {
  byte me = 2, sid = 7, want = 3, ack, new_ack, etag, shun, new_shun, from, used, need, keep; short named; bool has_pack;
#ifdef LIST_BESIDE
  short beside;
#endif
  reg_state[0] == ABSENT;
#ifdef OBJECTS
  if :: IN(records, 0) && IN(refs, 0) :: !(IN(records, 0) && IN(refs, 0)) -> goto end fi;
#endif
#ifdef BUG_REPAIR_DIRECT
  d_step { create_register(sid, gc_n); reg_state[sid] = COMMITTED; told = told | BIT(sid);
#ifdef OBJECTS
    refs = refs | BIT(sid); records = records | BIT(sid);
#endif
    chunks_of(have_, packs);
    if :: (have_ & 3) == 3 -> check() :: else -> reg_state[sid] = FENCED; told = told & ~BIT(sid) fi;
    printf("X makes register 7 from the record, committed\n") };
  goto end;
#endif
  ack = gc_n;
  begin();
  d_step { load_now(set_, from, named); set_ = set_ & ~shun; plan_upload(set_); from = 0; named = 0; shun = 0;
    printf("X relies on packs %d, lacks chunks %d\n", used, need) };
  if :: need != 0 -> goto end :: else fi;
  poll();
#ifdef BUG_REPAIR_OLD_REFS
  if :: IN(records, 0) && IN(refs, 0) :: !(IN(records, 0) && IN(refs, 0)) -> goto end fi;
#else
  put_objects();
#endif
  poll();
  commit();
again:
  skip;
end:
  atomic { CLEAR }
}
#endif
