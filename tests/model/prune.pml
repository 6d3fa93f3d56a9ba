/* Prune. Everything that it decides goes through gc/state; any prune may go on with another one's cycle. */

#ifdef MARKS
/* Add what is live and not counted yet to the marks. */
inline count_registers() {
  for (r_ : 0 .. REGISTERS - 1) {
    if
    :: !IN(counted, r_) && REG_VALID(r_, gc_floor, gc_roster) && LIVE(r_) -> counted = counted | BIT(r_); marks = marks | reg_needs[r_]
#ifdef BUG_MARK_COUNTS_OPEN
    :: !IN(counted, r_) && REG_VALID(r_, gc_floor, gc_roster) && reg_state[r_] == OPEN -> counted = counted | BIT(r_)
#endif
    :: else
    fi
  };
  k_ = 0
}
#define IS_COUNTED(r) IN(counted, r)
#else
#define IS_COUNTED(r) false
#endif
#ifdef BUG_NO_BARRIER
#define IS_ACKNOWLEDGED(r) true
#else
#define IS_ACKNOWLEDGED(r) (reg_ack[r] >= n)
#endif

/* The refs of a live register that was not counted before. */
#ifdef MARKS
#define NOTE_ALIVE(r) alive = alive | BIT(r)
#else
#define NOTE_ALIVE(r) skip
#endif
#define NEED(r) NOTE_ALIVE(r); if :: IS_COUNTED(r) :: else -> need = need | reg_needs[r] fi
/* On to the next register of the list. */
#define NEXT_SEEN(first) FORGET_LOOK; j = first; do :: j < REGISTERS && !IN(seen, j) -> j++ :: else -> break od
#ifdef OBJECTS
#define FORGET_LOOK looked = 0
#else
#define FORGET_LOOK skip
#endif
#ifdef BUG_RECORD_UNSEEN
#define MUST_COMMIT(r) false
#else
#define MUST_COMMIT(r) HAS_RECORD(r)
#endif
#define IS_LATE(r) (IN(seen, r) && ((reg_state[r] == OPEN && !IS_ACKNOWLEDGED(r)) || (reg_state[r] == FENCED && MUST_COMMIT(r))))
#define END_LATE(r) \
  if \
  :: MUST_COMMIT(r) -> write_register(r, COMMITTED, 0, 0); printf("P%d commits %d\n", me, r) \
  :: else -> write_register(r, FENCED, 0, 0); seen = seen & ~BIT(r); printf("P%d fences %d\n", me, r) \
  fi; check()
#define HANG_LATE(r) hang(LATE_SWAP, r, reg_etag[r], (MUST_COMMIT(r) -> COMMITTED : FENCED), 0, 0)
#ifdef REOPEN
#define IS_LATE_0 IS_LATE(0)
#else
#define IS_LATE_0 false
#endif

/* GET of the runs that were listed; NOTHING if one is gone: then this prune's version of gc/state is old. */
inline load_index() {
  if
#ifndef BUG_GONE_RUN_IGNORED
  :: (runs_seen & ~runs) != 0 -> listed = NOTHING
#endif
  :: else ->
     load_runs(listed, runs_seen);
#ifdef BASES
     load_runs(fresh, runs_seen & ~base);
#endif
  fi;
  runs_seen = 0
}

/* What may die, from what is needed, what is to be kept and what the index has: the re-mark. */
inline decide() {
  set_ = listed & ~dead; have_ = keep & condemned; lost = 0;
  for (c_ : 0 .. 2) {
    if
    :: IN(need, c_) ->
       pick_ = NOTHING; find_pack(pick_, set_ & ~(condemned & ~have_), c_);
       if
       :: pick_ == NOTHING -> find_pack(pick_, set_, c_); if :: pick_ == NOTHING -> lost = 1 :: else -> have_ = have_ | BIT(pick_) fi
       :: else
       fi
    :: else
    fi
  };
#ifdef BUG_NO_REMARK
  have_ = 0; lost = 0;
#endif
  next_dead[me] = condemned & ~have_; next_roster[me] = seen;
  merged = set_ & ~next_dead[me]; next_base[me] = BIT(7 + me);
#ifdef MARKS
  next_marks[me] = need; next_counted[me] = (counted | alive) & seen;
  alive = 0;
#endif
  need = 0; keep = 0; seen = 0
}
#ifdef BASES
/* Instead of rewriting the base, add one run to it, of what it does not have. As long as a base run lists a pack
 * that died, the pack stays dead: `listed` are the packs of runs that are not in the base. */
inline add_to_base() {
  set_ = 0;
  for (k_ : 0 .. RUNS - 1) { if :: IN(base, k_) -> set_ = set_ | run_packs[k_] :: else fi };
  merged = fresh & ~dead & ~next_dead[me];
#ifndef BUG_DEAD_DROPPED
  next_dead[me] = next_dead[me] | (dead & set_);
#endif
  next_base[me] = next_base[me] | base
}
#endif

/* Void below the floor, which the registers and runs that gc/state named are exempt from. `seen` is the roster. */
#define IS_VOID_RUN(k) (IN(runs, k) && !IN(base, k) && run_gen[k] < floor)
#define IS_VOID(r) (reg_state[r] != ABSENT && reg_gen[r] < floor && !IN(seen, r))
#define IS_OVER(r) (reg_state[r] == DEAD || reg_state[r] == FENCED || IS_VOID(r))
/* A register goes when it is void, and not before: a create that lands a second time brings back what counts. */
#ifdef BUG_TERMINAL_REMOVED
#define IS_GARBAGE(r) IS_OVER(r)
#else
#define IS_GARBAGE(r) IS_VOID(r)
#endif
#define FIRST_DEAD k_ = 0; do :: !IN(dead, k_) -> k_++ :: else -> break od

/* Reference sets and records without a register that could still need them. They are listed before the registers
 * are: one whose register is not in the later list was left behind, not made meanwhile. */
#ifdef OBJECTS
inline list_objects() { refs_seen = refs; records_seen = records }
inline list_owners() {
  gone = 0;
  for (r_ : 0 .. REGISTERS - 1) {
    if :: reg_state[r_] == ABSENT || IN(unlisted_regs, r_) || IS_VOID(r_) -> gone = gone | BIT(r_) :: else fi
  };
#ifdef BUG_OBJECTS_OF_OPEN
  for (r_ : 0 .. REGISTERS - 1) { if :: reg_state[r_] == OPEN -> gone = gone | BIT(r_) :: else fi };
#endif
#ifdef REVIVE
  /* A snapshot whose register was made anew has two of them in turn. */
  if :: reg_state[7] != ABSENT && !IN(unlisted_regs, 7) && !IS_VOID(7) && reg_state[0] == ABSENT -> gone = gone & ~1 :: else fi;
#endif
  k_ = 0
}
inline delete_objects() {
#ifdef BUG_OBJECTS_LISTED_LAST
  d_step { list_owners() };
  d_step { list_objects(); refs_seen = refs_seen & gone; records_seen = records_seen & gone; gone = 0 };
#else
  d_step { list_objects() };
#if defined(LAG) && !defined(BUG_OBJECTS_LAG_IGNORED)
  gone = unlisted_regs; (unlisted_regs & gone) == 0;
#endif
  d_step { list_owners(); refs_seen = refs_seen & gone; records_seen = records_seen & gone; gone = 0 };
#endif
  if
  :: d_step { refs = refs & ~refs_seen; printf("P%d DELETE reference sets %d\n", me, refs_seen); refs_seen = 0; check() }
  :: d_step { MAY_HANG && refs_seen != 0 -> k_ = 0; do :: !IN(refs_seen, k_) -> k_++ :: else -> break od;
       hang(LATE_REFS_DELETE, k_, 0, 0, 0, 0); refs = refs & ~(refs_seen & ~BIT(k_)); refs_seen = 0; check() }
  fi;
  if
  :: d_step { records = records & ~records_seen; printf("P%d DELETE records %d\n", me, records_seen); records_seen = 0; check() }
  :: d_step { MAY_HANG && records_seen != 0 -> k_ = 0; do :: !IN(records_seen, k_) -> k_++ :: else -> break od;
       hang(LATE_RECORD_DELETE, k_, 0, 0, 0, 0); records = records & ~(records_seen & ~BIT(k_)); records_seen = 0; check() }
  fi
}
#endif

#define FORGET_CYCLE n = 0; etag = 0; condemned = 0; dead = 0; floor = 0; base = 0

proctype Prune(byte me) {
  byte n, etag, condemned, dead, floor;  /* the version of gc/state that this cycle goes by */
  short base, runs_seen;
  byte seen, need, keep, listed, merged; /* registers that are alive; chunks needed; packs kept; packs listed */
  byte j;
  bool tried, lost;
#ifdef MARKS
  byte marks, counted, alive;
#endif
#ifdef OBJECTS
  byte refs_seen, records_seen, gone;
  bool is_live;
  byte looked;                           /* at a session's record: 1, or 3 if it was fenced: there is none; 2: there is one */
#endif
#ifdef BASES
  byte fresh;
#endif
  { j = 0;
look:
  atomic {
    n = gc_n; etag = gc_etag; j = 0; seen = 0; need = 0; keep = 0; listed = 0; runs_seen = 0; lost = 0;
    if
    :: gc_condemning -> condemned = gc_condemned; dead = gc_dead; floor = gc_floor; base = gc_base
    :: else -> condemned = 0; dead = 0; floor = 0; base = 0
    fi
  };
  if :: floor != 0 -> goto barrier :: floor == 0 && tried -> goto delete :: else fi;

  /* Mark: past its grace a forgotten snapshot is DEAD. */
#ifndef MARKS
  tried = 1;
#endif
  if
  :: skip
  :: d_step { me < REPACKS && reg_state[0] == FORGOTTEN -> write_register(0, DEAD, 0, 0); printf("P%d declares snapshot 0 DEAD\n", me) }
#ifdef BUG_DELETE_FORGOTTEN
  :: reg_state[0] == FORGOTTEN -> d_step { printf("P%d takes a forgotten snapshot for gone\n", me); delete_register(0); check() }
#endif
  :: d_step { MAY_HANG && me < REPACKS && reg_state[0] == FORGOTTEN -> hang(LATE_SWAP, 0, reg_etag[0], DEAD, 0, 0) }
  fi;
#ifdef MARKS
  /* In full, or from what this prune knows, or from what the last doom left. */
  if
  :: d_step { marks = 0; counted = 0; count_registers() }
  :: d_step { counted != 0 -> count_registers() }
  :: d_step { gc_counted != 0 && gc_etag == etag -> marks = gc_marks; counted = gc_counted; count_registers() }
  fi;
#endif
  /* Repack: chunk b of pack 0. */
  if
  :: skip
  :: me < REPACKS && IN(packs, 0) && pack_chunks[5 + me] == 0 ->
     d_step { put_pack(5 + me, 2); printf("P%d repacks: PUT pack %d\n", me, 5 + me); check() };
     d_step { put_run(5 + me, n); printf("P%d repacks: PUT run %d of generation %d\n", me, 5 + me, n); check() }
  fi;
  /* Condemn anything: a mark may be wrong. */
  if
  :: d_step { next_condemned[me] = packs & ~BIT(5 + me) }
  :: d_step { COARSE < 3 && me < REPACKS && packs != 1 && IN(packs, 0) -> next_condemned[me] = 1 }
  :: d_step { COARSE < 3 && me < REPACKS && (packs & ~BIT(5 + me) & ~1) != 0 && IN(packs, 0) ->
       next_condemned[me] = packs & ~BIT(5 + me) & ~1 }
  fi;
  d_step { list_runs(runs_seen, gc_floor, gc_base); next_known[me] = runs_seen; runs_seen = 0 };
  do
  :: d_step { gc_etag == etag -> publish(me); tried = 1; printf("P%d publishes generation %d, condemns %d\n", me, gc_n, gc_condemned); check() } -> break
  :: gc_etag != etag -> break
  :: d_step { MAY_HANG -> hang(LATE_PUBLISH, me, etag, 0, 0, 0); tried = 1 }; if :: gc_etag == etag :: gc_etag != etag -> break fi
  od;
  atomic { next_condemned[me] = 0; next_known[me] = 0; goto look };

barrier:
  /* Registers are listed after the generation is out: who is not in the list will see it. */
#if defined(LAG) && !defined(BUG_LAG_IGNORED)
  seen = unlisted_regs; (unlisted_regs & seen) == 0; /* longer than a LIST may lag */
#endif
  atomic {
    seen = 0;
    for (r_ : 0 .. REGISTERS - 1) {
      if :: reg_state[r_] != ABSENT && !IN(unlisted_regs, r_) && REG_VALID(r_, floor, gc_roster) -> seen = seen | BIT(r_) :: else fi
    };
    NEXT_SEEN(0);
    printf("P%d lists registers %d\n", me, seen)
  };
#if COARSE < 2
  do
#ifdef OBJECTS
  /* The register is read, then its reference set. One that is gone: the register is read again. */
  :: d_step { j < REGISTERS && !is_live && LIVE(j) -> is_live = 1 }
  :: d_step { j < REGISTERS && is_live && IN(refs, OBJECTS_OF(j)) -> is_live = 0; NEED(j); NEXT_SEEN(j + 1); k_ = 0 }
  :: d_step { j < REGISTERS && is_live && !IN(refs, OBJECTS_OF(j)) -> is_live = 0; printf("P%d finds no reference set of %d\n", me, j) }
#define UNREAD !is_live &&
#define IS_OPENABLE(r) (reg_state[r] == FENCED)
#else
  :: d_step { j < REGISTERS && LIVE(j) -> NEED(j); NEXT_SEEN(j + 1); k_ = 0 }
#define UNREAD
#define IS_OPENABLE(r) false
#endif
  :: d_step { UNREAD j < REGISTERS && reg_state[j] == OPEN && IS_ACKNOWLEDGED(j) -> keep = keep | reg_keep[j]; NEXT_SEEN(j + 1); k_ = 0 }
  :: d_step { UNREAD j < REGISTERS && !LIVE(j) && reg_state[j] != OPEN && !IS_OPENABLE(j) -> seen = seen & ~BIT(j); NEXT_SEEN(j + 1); k_ = 0 }
#ifdef OBJECTS
  /* The record is asked for, and once more when the session is fenced: it may have stored it, committed, and lost
   * its register, which came back as the version that was fenced. */
#define IS_DUE (j < REGISTERS && reg_state[j] == OPEN && reg_ack[j] < n)
#define IS_FENCED (j < REGISTERS && reg_state[j] == FENCED)
#ifdef BUG_LOOKED_ONCE
#define IS_SURE IS_FENCED
#else
#define IS_SURE (IS_FENCED && looked == 3)
#endif
  :: d_step { UNREAD looked == 0 && (IS_DUE || IS_FENCED) -> looked = (MUST_COMMIT(j) -> 2 : (IS_FENCED -> 3 : 1)) }
  :: d_step { UNREAD looked == 2 && (IS_DUE || IS_FENCED) -> write_register(j, COMMITTED, 0, 0); printf("P%d commits %d\n", me, j); check() }
  :: d_step { UNREAD looked == 2 && MAY_HANG && (IS_DUE || IS_FENCED) -> hang(LATE_SWAP, j, reg_etag[j], COMMITTED, 0, 0) }
  :: d_step { UNREAD looked == 1 && IS_FENCED -> looked = 0 }
  :: d_step { UNREAD IS_SURE -> seen = seen & ~BIT(j); NEXT_SEEN(j + 1); k_ = 0 }
  :: d_step { UNREAD looked == 1 && IS_DUE -> write_register(j, FENCED, 0, 0); printf("P%d fences %d\n", me, j); check(); looked = 0 }
  :: d_step { UNREAD looked == 1 && MAY_HANG && IS_DUE -> hang(LATE_SWAP, j, reg_etag[j], FENCED, 0, 0) }
#else
  :: d_step { UNREAD j < REGISTERS && reg_state[j] == OPEN && reg_ack[j] < n -> write_register(j, FENCED, 0, 0); seen = seen & ~BIT(j);
       printf("P%d fences %d\n", me, j); check(); NEXT_SEEN(j + 1); k_ = 0 }
  :: d_step { UNREAD MAY_HANG && j < REGISTERS && reg_state[j] == OPEN && reg_ack[j] < n -> hang(LATE_SWAP, j, reg_etag[j], FENCED, 0, 0) }
#endif
  :: j == REGISTERS -> break
  od;
  j = 0;
#if defined(LAG) && !defined(BUG_LAG_IGNORED)
  runs_seen = unlisted_runs; (unlisted_runs & runs_seen) == 0;
#endif
  d_step { list_runs(runs_seen, floor, base); printf("P%d lists runs %d\n", me, runs_seen) };
  d_step { load_index() };
#else
  /* All GETs of registers, and the index, in one step, once nobody is late any more. */
  do
#ifdef REOPEN
  :: d_step { IS_LATE(0) -> END_LATE(0) }
#endif
  :: d_step { IS_LATE(1) -> END_LATE(1) }
  :: d_step { IS_LATE(2) -> END_LATE(2) }
  :: d_step { IS_LATE(3) -> END_LATE(3) }
  :: d_step { IS_LATE(4) -> END_LATE(4) }
  :: d_step { MAY_HANG && IS_LATE(1) -> HANG_LATE(1) }
  :: d_step { MAY_HANG && IS_LATE(3) -> HANG_LATE(3) }
  :: d_step { !IS_LATE_0 && !IS_LATE(1) && !IS_LATE(2) && !IS_LATE(3) && !IS_LATE(4) ->
       for (r_ : 0 .. REGISTERS - 1) {
         if
         :: !IN(seen, r_)
         :: IN(seen, r_) && LIVE(r_) -> NEED(r_)
         :: IN(seen, r_) && reg_state[r_] == OPEN -> keep = keep | reg_keep[r_]
         :: else -> seen = seen & ~BIT(r_)
         fi
       };
       j = 0;
       list_runs(runs_seen, floor, base);
       if :: COARSE >= 3 && gc_etag != etag -> listed = NOTHING; runs_seen = 0 :: else -> load_index() fi } -> break
  od;
#endif
  if :: listed == NOTHING -> goto look :: else fi;
  d_step {
#ifdef MARKS
    need = need | marks;
#endif
    decide();
    listed = 0;
    printf("P%d decides: dead %d, merged %d, lost %d\n", me, next_dead[me], merged, lost)
  };
  if
  :: lost ->
#if defined(MARKS) && !defined(BUG_MARKS_NEVER_ANEW)
     /* Marks may ask for what a snapshot needed that is gone by now, and others pruned it: mark anew first. */
     if :: d_step { counted != 0 -> counted = 0; marks = 0 }; goto look :: counted == 0 fi;
#endif
     /* A needed chunk is nowhere: that prune would stop for good and tell somebody. */
     MUST(gc_etag != etag);
#ifdef LOSS_ONLY
     goto delete
#else
     goto look
#endif
  :: else
  fi;
#ifdef BASES
  if
  :: d_step { add_to_base(); fresh = 0 }
  :: d_step { /* compaction: what the base listed is rewritten, so older deaths are forgotten */
#ifdef BUG_DEAD_EMPTIED
       fresh = next_dead[me]; next_dead[me] = 0;
#endif
       skip }
  fi;
#ifndef BUG_DEAD_EMPTIED
  fresh = 0;
#endif
#endif
  atomic { condemned = 0; dead = 0; floor = 0; base = 0 };
#ifdef BUG_DELETE_BEFORE_DOOM
  d_step { packs = packs & ~next_dead[me]; printf("P%d deletes packs before the doom\n", me); check() };
#endif
  if
  :: d_step { run_packs[7 + me] = merged; put_run(7 + me, n); merged = 0; printf("P%d PUT merged run %d of generation %d\n", me, 7 + me, n); check() }
  :: d_step { MAY_DOUBLE -> run_packs[7 + me] = merged; put_run(7 + me, n); merged = 0; hang(LATE_RUN, 7 + me, 0, 0, n, 0); check() }
  fi;
  do
  :: d_step { gc_etag == etag -> doom(me); printf("P%d dooms %d, floor %d\n", me, gc_dead, gc_floor); check() };
#ifdef BUG_DEAD_EMPTIED
     d_step { packs = packs & ~fresh; printf("P%d deletes packs %d, which are no longer called dead\n", me, fresh); check() };
#endif
     break
#ifdef BUG_STATE_BLIND
  :: d_step { gc_etag != etag -> doom(me); printf("P%d dooms %d blindly\n", me, gc_dead); check() } -> break
#endif
  :: gc_etag != etag -> break
  :: d_step { MAY_HANG -> hang(LATE_DOOM, me, etag, 0, 0, 0) }; if :: gc_etag == etag :: gc_etag != etag -> break fi
  od;

delete:
  /* By a version of gc/state that may be old by the time of each request. */
  atomic {
    next_dead[me] = 0; next_roster[me] = 0; next_base[me] = 0; FORGET_CYCLE; j = 0;
#ifdef MARKS
    next_marks[me] = 0; next_counted[me] = 0; marks = 0; counted = 0;
#endif
    floor = gc_floor; base = gc_base; dead = gc_dead & packs; seen = gc_roster
  };
#ifdef OBJECTS
  delete_objects();
#endif
#if COARSE >= 1 && LATE == 0 && !defined(DELETE_ONE)
  d_step {
    packs = packs & ~dead; dead = 0;
    for (k_ : 0 .. RUNS - 1) { if :: IS_VOID_RUN(k_) -> runs = runs & ~BIT(k_) :: else fi };
    for (r_ : 0 .. REGISTERS - 1) { if :: IS_GARBAGE(r_) -> delete_register(r_) :: else fi };
    base = 0; check()
  };
#elif defined(DELETE_ONE)
  do
  :: d_step { dead != 0 -> FIRST_DEAD; packs = packs & ~BIT(k_); dead = dead & ~BIT(k_); printf("P%d DELETE pack %d\n", me, k_); check() }
  :: d_step { MAY_HANG && dead != 0 -> FIRST_DEAD; hang(LATE_PACK_DELETE, k_, 0, 0, 0, 0); dead = dead & ~BIT(k_) }
  :: dead == 0 -> break
  od;
  do
  :: d_step { j < RUNS && !IS_VOID_RUN(j) -> j++; do :: j < RUNS && !IS_VOID_RUN(j) -> j++ :: else -> break od; k_ = 0 }
  :: d_step { j < RUNS && IS_VOID_RUN(j) -> runs = runs & ~BIT(j); printf("P%d DELETE run %d\n", me, j); j++; check() }
  :: d_step { MAY_HANG && j < RUNS && IS_VOID_RUN(j) -> hang(LATE_RUN_DELETE, j, 0, 0, 0, 0); j++ }
  :: j == RUNS -> break
  od;
  atomic { j = 0; base = 0 };
  do
  :: d_step { j < REGISTERS && !IS_GARBAGE(j) -> j++; do :: j < REGISTERS && !IS_GARBAGE(j) -> j++ :: else -> break od; k_ = 0 }
  :: d_step { j < REGISTERS && IS_GARBAGE(j) -> delete_register(j); printf("P%d DELETE register %d\n", me, j); j++; check() }
  :: d_step { MAY_HANG && j < REGISTERS && IS_GARBAGE(j) -> hang(LATE_REGISTER_DELETE, j, 0, 0, 0, 0); j++ }
  :: j == REGISTERS -> break
  od;
#else
  if
  :: d_step { packs = packs & ~dead; dead = 0; check() }
  :: d_step { MAY_HANG && dead != 0 -> FIRST_DEAD; hang(LATE_PACK_DELETE, k_, 0, 0, 0, 0); dead = dead & ~BIT(k_); packs = packs & ~dead; dead = 0; check() }
  fi;
  if
  :: d_step { for (k_ : 0 .. RUNS - 1) { if :: IS_VOID_RUN(k_) -> runs = runs & ~BIT(k_) :: else fi }; base = 0; check() }
  :: d_step { MAY_HANG -> r_ = 0; do :: r_ < RUNS && !IS_VOID_RUN(r_) -> r_++ :: else -> break od;
       if :: r_ < RUNS -> hang(LATE_RUN_DELETE, r_, 0, 0, 0, 0) :: else fi; base = 0 }
  fi;
  if
  :: d_step { for (r_ : 0 .. REGISTERS - 1) { if :: IS_GARBAGE(r_) -> delete_register(r_) :: else fi }; check() }
  :: d_step { MAY_HANG -> r_ = 0; do :: r_ < REGISTERS && !IS_GARBAGE(r_) -> r_++ :: else -> break od;
       if :: r_ < REGISTERS -> hang(LATE_REGISTER_DELETE, r_, 0, 0, 0, 0) :: else fi }
  fi;
#endif
  atomic { FORGET_CYCLE; seen = 0; need = 0; keep = 0; listed = 0; j = 0; tried = 0; lost = 0 }
  }
#if CRASHES > 0
  unless { CRASHED(2 + me) }
#endif
}
