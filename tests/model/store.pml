/* The store: which objects there are, what is in them, and what a request does to them.
 *
 * Chunks   a = 1, b = 2, c = 4.
 * Packs    0 holds a and b and is there from the start; 1 to 4 are the writers', one per session; 5 and 6 the
 *          prunes' repacks of b.
 * Runs     0 to 6 list the pack of that number; 7 and 8 are the prunes' merged runs, 9 the merge's; 10 and 11
 *          those of the drain.
 * Registers  0 a snapshot of a and b, which may be forgotten; 1 and 2 the first writer's sessions, 3 and 4 the
 *          second's; 5 a snapshot of b; 6 the merge's session; 7 the repair's, or register 0 made anew.
 * Sets of these are bit masks. */
#define PACKS 7
#ifdef DRAIN
#define RUNS 12
#else
#define RUNS 10
#endif
#if defined(REPAIR) || defined(REVIVE)
#define REGISTERS 8
#else
#define REGISTERS 7
#endif
#define BIT(i) (1 << (i))
#define IN(set, i) (((set) >> (i)) & 1)
#define NOTHING 255

#define ABSENT 0
#define OPEN 1
#define COMMITTED 2
#define FORGOTTEN 3
#define DEAD 4
#define FENCED 5
#define LIVE(r) (reg_state[r] == COMMITTED || reg_state[r] == FORGOTTEN)

/* Which there are; generations in their names; contents. A name is used once, so contents stay. */
byte packs = 1, pack_chunks[PACKS];
short runs = 1; byte run_gen[RUNS], run_packs[RUNS];
byte reg_state[REGISTERS], reg_gen[REGISTERS], reg_ack[REGISTERS], reg_keep[REGISTERS];
byte reg_needs[REGISTERS], reg_etag[REGISTERS];
#ifdef OBJECTS
byte refs = 33, records = 33;
#if defined(BUG_REPAIR_OLD_REFS) || defined(REVIVE)
#define OBJECTS_OF(r) (r == 7 -> 0 : r)
#else
#define OBJECTS_OF(r) r
#endif
/* Who would end a session commits it, if its record is there: it is stored last. */
#define HAS_RECORD(r) IN(records, OBJECTS_OF(r))
#define HAS_OBJECTS true
#else
#define HAS_RECORD(r) false
#define HAS_OBJECTS false
#endif
#ifdef REOPEN
byte reopened = 0;
#define REOPENED reopened
#else
#define REOPENED 0
#endif
#ifdef RESUME
byte checkpoints = 0; /* registers that name the record of a checkpoint */
#endif

/* gc/state. Bit 33 is registers 0 and 5. */
byte gc_n = 1, gc_floor = 1, gc_condemned = 0, gc_dead = 0, gc_roster = 33, gc_etag = 1;
bool gc_condemning = 0; short gc_base = 1, gc_known = 0;
#ifdef MARKS
byte gc_marks = 0, gc_counted = 0; /* chunks that were needed at the doom; registers that were counted then */
#endif

/* What each prune would write with its next swap; sealed in the request, which may land late. */
byte next_condemned[2], next_dead[2], next_roster[2]; short next_known[2], next_base[2];
#ifdef MARKS
byte next_marks[2], next_counted[2];
#endif

/* Not in the store: sessions whose user was told "saved"; writers that have ended; crashed clients. */
byte told = 0, ended = 0, crashed = 0, crash_count = 0;
short unlisted_runs = 0; byte unlisted_regs = 0;

/* Scratch, used within one step only. */
hidden byte k_, c_, r_, pick_, set_, have_;

/* Rules of section 11.3 of docs/format.md. */
#ifdef BUG_NO_ROSTER
#define REG_VALID(r, floor, roster) (1)
#else
#define REG_VALID(r, floor, roster) (reg_gen[r] >= (floor) || IN(roster, r))
#endif
#ifdef BUG_NO_FLOOR
#define RUN_COUNTS(k, from, named) (1)
#else
#define RUN_COUNTS(k, from, named) (run_gen[k] >= (from) || IN(named, k))
#endif
/* A writer trusts runs from TRUST_FROM on and those of TRUST_NAMED. */
#ifdef BUG_TRUST_ALL
#define TRUST_FROM gc_floor
#define TRUST_NAMED gc_base
#else
#define TRUST_FROM gc_n
#define TRUST_NAMED (gc_base | gc_known)
#endif

/* Packs that are listed by the runs that count: by all of these at this moment. */
inline load_now(result, since, besides) {
  result = 0;
  for (k_ : 0 .. RUNS - 1) {
    if :: IN(runs, k_) && RUN_COUNTS(k_, since, besides) -> result = result | run_packs[k_] :: else fi
  };
  k_ = 0
}
/* LIST index/: which of them there are. Those that are named are expected, listed or not. */
inline list_runs(result, since, besides) {
  result = besides;
  for (k_ : 0 .. RUNS - 1) {
    if :: IN(runs, k_) && !IN(unlisted_runs, k_) && RUN_COUNTS(k_, since, besides) -> result = result | BIT(k_) :: else fi
  };
  k_ = 0
}
/* GET of the runs that were listed; what is gone by now is not in `result`. */
inline load_runs(result, which) {
  result = 0;
  for (k_ : 0 .. RUNS - 1) { if :: IN(which, k_) && IN(runs, k_) -> result = result | run_packs[k_] :: else fi };
  k_ = 0
}
inline chunks_of(result, which) {
  result = 0;
  for (k_ : 0 .. PACKS - 1) { if :: IN(which, k_) -> result = result | pack_chunks[k_] :: else fi };
  k_ = 0
}
/* The first pack of `which` with that chunk, if `result` is NOTHING yet. */
inline find_pack(result, which, wanted) {
  for (k_ : 0 .. PACKS - 1) {
    if :: result == NOTHING && IN(which, k_) && IN(pack_chunks[k_], wanted) -> result = k_ :: else fi
  };
  k_ = 0
}

/* Requests. */
#ifdef LOSS_ONLY
#define MUST(x) skip
#else
#define MUST(x) assert(x)
#endif
/* An etag is a name for the content: who writes the same again gets the same again. The fresh nonce of every version
 * keeps others apart, so a session's versions are its create, one for each acknowledgement, its checkpoint and its
 * commit. Registers 0 and 5 are never created here: theirs are counted. */
#define ETAG_CREATED 1
#define ETAG_OPEN(acked, is_checkpoint) ((acked) + 8 * (is_checkpoint)) /* acknowledgements start at 2 */
#define ETAG_COMMITTED 16
#define ETAG_FENCED 32
#define IS_AT(r, etag) (reg_state[r] != ABSENT && reg_etag[r] == (etag))
#define IS_FORWARD(r, to) ((reg_state[r] == OPEN && (to == OPEN || to == COMMITTED || to == FENCED)) \
  || (reg_state[r] == FENCED && to == COMMITTED && HAS_OBJECTS) \
  || (reg_state[r] == COMMITTED && to == FORGOTTEN) \
  || (reg_state[r] == FORGOTTEN && (to == COMMITTED || to == DEAD)))

#define IS_COUNTED_ETAG(r) ((r) == 0 || (r) == 5)
#ifdef RESUME
#define IS_CHECKPOINT(r) IN(checkpoints, r)
#else
#define IS_CHECKPOINT(r) 0
#endif
inline write_register(reg, to, acked, keeping) {
  MUST(IS_FORWARD(reg, to) && (to != OPEN || (acked) >= reg_ack[reg])); /* M */
  reg_state[reg] = to; reg_ack[reg] = acked; reg_keep[reg] = keeping;
  if
  :: to == OPEN -> reg_etag[reg] = ETAG_OPEN(acked, IS_CHECKPOINT(reg))
  :: to == COMMITTED && !IS_COUNTED_ETAG(reg) -> reg_etag[reg] = ETAG_COMMITTED
  :: to == FENCED -> reg_etag[reg] = ETAG_FENCED
  :: else -> reg_etag[reg] = reg_etag[reg] + 1
  fi
}
inline create_register(reg, born) {
  if
  :: reg_state[reg] == ABSENT ->
     reg_state[reg] = OPEN; reg_gen[reg] = born; reg_ack[reg] = born; reg_keep[reg] = 0; reg_etag[reg] = ETAG_CREATED;
#ifdef LAG
     unlisted_regs = unlisted_regs | BIT(reg);
#endif
  :: else
  fi
}
inline delete_register(reg) {
  reg_state[reg] = ABSENT; reg_ack[reg] = 0; reg_keep[reg] = 0; reg_etag[reg] = 0; reg_gen[reg] = 0;
#ifdef RESUME
  checkpoints = checkpoints & ~BIT(reg);
#endif
}
inline put_run(number, born) {
  MUST(!IN(runs, number) || run_gen[number] == born); /* M */
#ifdef LAG
  if :: !IN(runs, number) -> unlisted_runs = unlisted_runs | BIT(number) :: else fi;
#endif
  runs = runs | BIT(number); run_gen[number] = born
}
inline put_pack(pack, held) {
  MUST(pack_chunks[pack] == 0 || pack_chunks[pack] == held); /* M */
  pack_chunks[pack] = held; packs = packs | BIT(pack)
}
inline publish(by) {
  gc_n = gc_n + 1; gc_condemning = 1; gc_condemned = next_condemned[by]; gc_known = next_known[by];
  gc_etag = gc_etag + 1
}
/* What a repair does first: the cycle under way ends without anything dead; n and the floor stay. */
inline abandon() {
  if :: gc_condemning -> gc_condemning = 0; gc_condemned = 0; gc_etag = gc_etag + 1 :: else fi
}
inline doom(by) {
  gc_condemning = 0; gc_condemned = 0; gc_known = 0; gc_floor = gc_n;
  gc_dead = next_dead[by]; gc_base = next_base[by]; gc_roster = next_roster[by];
#ifdef MARKS
  gc_marks = next_marks[by]; gc_counted = next_counted[by];
#endif
  gc_etag = gc_etag + 1
}

/* Requests of unknown fate. A client whose request goes without answer puts it here; it lands from landing.pml. */
#define LATE_NOTHING 0
#define LATE_SWAP 1
#define LATE_CREATE 2
#define LATE_PACK 3
#define LATE_RUN 4
#define LATE_PACK_DELETE 5
#define LATE_RUN_DELETE 6
#define LATE_REGISTER_DELETE 7
#define LATE_PUBLISH 8
#define LATE_DOOM 9
#define LATE_REFS 10
#define LATE_RECORD 11
#define LATE_REFS_DELETE 12
#define LATE_RECORD_DELETE 13
#if LATE > 0
byte late_kind[LATE], late_to[LATE], late_etag[LATE], late_state[LATE], late_gen[LATE], late_keep[LATE];
byte late_count = 0;
#define IS_ROOM (late_count < LATE)
/* Lost, be it the request or its answer; or answered, and landing once more. */
#ifdef ANSWERED
#define MAY_HANG false
#define MAY_HANG_COMMIT false
#define MAY_DOUBLE IS_ROOM
#else
#define MAY_HANG_COMMIT IS_ROOM
#ifdef LATE_COMMIT_ONLY
#define MAY_HANG false
#else
#define MAY_HANG IS_ROOM
#endif
#define MAY_DOUBLE MAY_HANG
#endif
inline hang(h_kind, h_to, h_etag, h_state, h_gen, h_keep) {
  late_kind[late_count] = h_kind; late_to[late_count] = h_to; late_etag[late_count] = h_etag;
  late_state[late_count] = h_state; late_gen[late_count] = h_gen; late_keep[late_count] = h_keep;
  late_count++
}
#define DROP(z) late_kind[z] = 0; late_to[z] = 0; late_etag[z] = 0; late_state[z] = 0; late_gen[z] = 0; late_keep[z] = 0
#else
#define MAY_HANG false
#define MAY_HANG_COMMIT false
#define MAY_DOUBLE false
inline hang(h_kind, h_to, h_etag, h_state, h_gen, h_keep) { skip }
#endif
