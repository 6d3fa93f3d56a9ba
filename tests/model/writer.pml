/* A backup: pvback/repository/session.py and the data path's side of it. */

/* Which packs of `trusted` give the wanted chunks; what none gives is uploaded. */
inline plan_upload(trusted) {
  used = 0; need = 0;
  for (c_ : 0 .. 2) {
    if
    :: IN(want, c_) ->
       pick_ = NOTHING; find_pack(pick_, trusted, c_);
       if :: pick_ == NOTHING -> need = need | BIT(c_) :: else -> used = used | BIT(pick_) fi
    :: else
    fi
  };
  k_ = 0
}
/* Under a new generation each used chunk moves to a trusted copy, or its pack is named to be kept. So is the
 * session's own pack from the moment on at which it may be there. */
inline plan_keep() {
  for (c_ : 0 .. 2) {
    if
    :: IN(want & ~need, c_) ->
       pick_ = NOTHING; find_pack(pick_, used & ~new_shun, c_); find_pack(pick_, set_, c_);
       if
       :: pick_ != NOTHING -> used = used | BIT(pick_)
       :: else -> find_pack(pick_, used, c_); if :: pick_ != NOTHING -> keep = keep | BIT(pick_) :: else fi
       fi
    :: else
    fi
  };
  if :: has_pack -> keep = keep | (BIT(sid) & new_shun) :: else fi;
#ifdef BUG_ACK_NO_KEEP
  keep = 0;
#endif
  skip
}
/* A register that a create brought back after prune had fenced and removed it is void: whoever acknowledges on it
 * is not heard, and would go on to list packs that have died. */
#ifdef BUG_ACK_VOID
#define MAY_GO_ON true
#else
#define MAY_GO_ON REG_VALID(sid, gc_floor, gc_roster)
#endif
#define NEXT_ETAG ETAG_OPEN(new_ack, IS_CHECKPOINT(sid))
/* One poll: nothing, or an acknowledgement. No run of this session is in flight while it goes on. */
inline poll() {
  if
  :: skip
  :: d_step { gc_n > ack && MAY_GO_ON -> new_ack = gc_n; new_shun = gc_condemned | gc_dead; from = TRUST_FROM; named = TRUST_NAMED };
     d_step { load_now(set_, from, named); set_ = set_ & ~new_shun; plan_keep(); from = 0; named = 0 };
     do
     :: d_step { IS_AT(sid, etag) -> write_register(sid, OPEN, new_ack, keep); etag = reg_etag[sid]; ack = new_ack; new_ack = 0; new_shun = 0;
          check(); printf("W%d acknowledges generation %d, keeps %d\n", me, ack, keep) } -> break
#ifdef REPLAY
     :: d_step { MAY_DOUBLE && IS_AT(sid, etag) -> write_register(sid, OPEN, new_ack, keep); hang(LATE_SWAP, sid, etag, OPEN, new_ack, keep);
          etag = reg_etag[sid]; ack = new_ack; new_ack = 0; new_shun = 0; check() } -> break
#endif
     :: !IS_AT(sid, etag) -> goto again
     :: d_step { MAY_HANG -> hang(LATE_SWAP, sid, etag, OPEN, new_ack, keep) };
        if
        :: d_step { IS_AT(sid, NEXT_ETAG) -> etag = NEXT_ETAG; ack = new_ack; new_ack = 0; new_shun = 0 } -> break
        :: IS_AT(sid, etag)
        :: !IS_AT(sid, etag) && !IS_AT(sid, NEXT_ETAG) -> goto again
        fi
     od
#ifndef BUG_ACK_VOID
  :: gc_n > ack && !MAY_GO_ON -> goto again
#endif
  fi
}
#ifdef LIST_BESIDE
/* What gc/state names as its base is asked for by name. */
#define NOTE_BASE beside = beside | gc_base
#define LISTED_PACKS load_listed(set_, from, named)
#define FORGET_LIST beside = 0
inline load_listed(result, since, besides) {
  result = 0;
  for (k_ : 0 .. RUNS - 1) {
    if :: IN(beside & runs, k_) && RUN_COUNTS(k_, since, besides) -> result = result | run_packs[k_] :: else fi
  };
  k_ = 0
}
#else
#define NOTE_BASE skip
#define LISTED_PACKS load_now(set_, from, named)
#define FORGET_LIST skip
#endif
/* Create the register and look again: `before` and `after` are what gc/state said. */
inline begin() {
  if
  :: d_step { reg_state[sid] == ABSENT -> if :: COARSE >= 1 -> ack = gc_n :: else fi; create_register(sid, ack); check();
       printf("W%d creates register %d of generation %d\n", me, sid, ack) }
#ifdef REPLAY
  :: d_step { MAY_DOUBLE && reg_state[sid] == ABSENT -> if :: COARSE >= 1 -> ack = gc_n :: else fi; create_register(sid, ack); hang(LATE_CREATE, sid, 0, 0, ack, 0); check();
       printf("W%d creates register %d of generation %d, and once more\n", me, sid, ack) }
#endif
  :: d_step { MAY_HANG -> if :: COARSE >= 1 -> ack = gc_n :: else fi; hang(LATE_CREATE, sid, 0, 0, ack, 0) };
     if :: reg_state[sid] == OPEN :: reg_state[sid] != OPEN -> goto again fi
  fi;
  etag = ETAG_CREATED;
#ifdef LIST_BESIDE
  /* The list is asked for beside the second look, and so may be older than that. */
  d_step { list_runs(beside, 0, 0); printf("W%d lists runs %d\n", me, beside) };
#endif
#ifndef BUG_READ_ONCE
  if
  :: d_step { gc_n == ack -> NOTE_BASE; shun = gc_condemned | gc_dead; from = TRUST_FROM; named = TRUST_NAMED }
  :: gc_n != ack -> goto again
  fi
#endif
}
/* Reference set and record, each under a name of this session alone. Asked for again until there is an answer. */
#ifdef OBJECTS
inline put_refs() {
#ifdef BUG_REFS_IN_DOUBT
  if :: d_step { refs = refs | BIT(sid) } :: d_step { MAY_HANG -> hang(LATE_REFS, sid, 0, 0, 0, 0) } fi;
#else
  if
  :: d_step { refs = refs | BIT(sid); printf("W%d PUT reference set %d\n", me, sid) }
  :: d_step { MAY_DOUBLE -> refs = refs | BIT(sid); hang(LATE_REFS, sid, 0, 0, 0, 0) }
  fi
#endif
}
inline put_record() {
  if
  :: d_step { records = records | BIT(sid) }
  :: d_step { MAY_DOUBLE -> records = records | BIT(sid); hang(LATE_RECORD, sid, 0, 0, 0, 0) }
  fi
}
inline put_objects() { put_refs(); put_record() }
#else
inline put_objects() { skip }
#endif
/* The swap that makes the snapshot; then a look whether its register counts, before anybody is told. */
#ifdef BUG_TOLD_UNSEEN
#define TELL told = told | BIT(sid)
#else
#define TELL skip
#endif
inline commit() {
  do
  :: d_step { IS_AT(sid, etag) -> write_register(sid, COMMITTED, 0, 0); TELL; check(); printf("W%d commits %d\n", me, sid) } -> break
#ifdef REPLAY
  :: d_step { MAY_DOUBLE && IS_AT(sid, etag) -> write_register(sid, COMMITTED, 0, 0); hang(LATE_SWAP, sid, etag, COMMITTED, 0, 0); check() } -> break
#endif
#ifdef BUG_COMMIT_BLIND
  :: d_step { !IS_AT(sid, etag) && reg_state[sid] != ABSENT && reg_state[sid] != COMMITTED ->
       write_register(sid, COMMITTED, 0, 0); told = told | BIT(sid); printf("W%d commits %d blindly\n", me, sid); check() } -> goto end
#endif
  :: !IS_AT(sid, etag) -> goto again
  :: d_step { MAY_HANG_COMMIT -> hang(LATE_SWAP, sid, etag, COMMITTED, 0, 0); printf("W%d commits %d without answer\n", me, sid) };
     if
     :: d_step { IS_AT(sid, ETAG_COMMITTED) -> TELL; check() } -> break
     :: IS_AT(sid, etag)
     :: !IS_AT(sid, ETAG_COMMITTED) && !IS_AT(sid, etag) -> goto again
     fi
  od;
#ifndef BUG_TOLD_UNSEEN
  if
  :: d_step { REG_VALID(sid, gc_floor, gc_roster) -> told = told | (BIT(sid) & ~REOPENED); check(); printf("W%d finds %d valid: saved\n", me, sid) } -> goto end
  :: d_step { !REG_VALID(sid, gc_floor, gc_roster) -> printf("W%d finds %d void\n", me, sid) } -> goto again
  fi
#else
  goto end
#endif
}

#define CLEAR ack = 0; new_ack = 0; shun = 0; new_shun = 0; used = 0; need = 0; keep = 0; etag = 0; from = 0; named = 0; has_pack = 0

proctype Writer(byte me; byte first; byte want) {
  byte sid, ack, new_ack, etag;    /* the session; the generations that it has acknowledged and now sees */
  byte shun, new_shun, from;       /* packs condemned or dead, and runs trusted, under these */
  short named;
  byte used, need, keep;           /* packs relied on; chunks to upload; packs to be kept */
  bool has_pack;                   /* its own pack may be there */
#ifdef LIST_BESIDE
  short beside;                    /* runs that the list shows */
#endif
  { sid = first;
start:
#if COARSE == 0
  atomic { ack = gc_n;
#ifdef BUG_READ_ONCE
    shun = gc_condemned | gc_dead; from = TRUST_FROM; named = TRUST_NAMED;
#endif
    printf("W%d reads generation %d\n", me, ack) };
#endif
  begin();
  d_step {
    LISTED_PACKS; FORGET_LIST;
#ifdef BUG_DEDUP_CONDEMNED
    shun = shun & gc_dead;
#endif
    set_ = set_ & ~shun;
    plan_upload(set_); from = 0; named = 0; shun = 0;
    printf("W%d loads the index: uses packs %d, uploads chunks %d\n", me, used, need)
  };
#if defined(RESUME) && defined(BUG_RESUME_BLIND)
  if
  :: skip
  :: d_step { me == 1 && IN(checkpoints, 1) && (reg_state[1] == OPEN || reg_state[1] == FENCED) ->
       set_ = run_packs[1]; plan_upload(set_ | BIT(0)); printf("W%d takes packs %d from the checkpoint\n", me, used) }
  fi;
#endif
#if COARSE == 0
  poll();
#endif
#ifdef REFS_EARLY
  put_refs();
#endif
  if
  :: need != 0 ->
#ifdef BUG_DOUBT_NOT_KEPT
     d_step { put_pack(sid, need); check(); printf("W%d PUT pack %d without answer\n", me, sid) };
     poll();
#endif
     if
     :: d_step { put_pack(sid, need); has_pack = 1; check(); printf("W%d PUT pack %d\n", me, sid) }
     :: d_step { MAY_DOUBLE -> put_pack(sid, need); has_pack = 1; hang(LATE_PACK, sid, 0, 0, 0, 0); check() }
     fi;
#if COARSE < 3
     poll();
#endif
#ifdef BUG_RUN_IN_FLIGHT
     atomic { MAY_HANG -> hang(LATE_RUN, sid, 0, 0, ack, 0) };
     poll();
     IN(runs, sid)
#else
     if
     :: d_step { put_run(sid, ack); check(); printf("W%d PUT run %d of generation %d\n", me, sid, ack) }
     :: d_step { MAY_DOUBLE -> put_run(sid, ack); hang(LATE_RUN, sid, 0, 0, ack, 0); check() }
     fi
#endif
  :: else
  fi;
#ifdef RESUME
  if
  :: me != 0
  :: d_step { me == 0 && IS_AT(sid, etag) -> checkpoints = checkpoints | BIT(sid); write_register(sid, OPEN, ack, keep); etag = reg_etag[sid]; check();
       printf("W%d makes a checkpoint\n", me) }
  :: me == 0 && !IS_AT(sid, etag) -> goto again
  fi;
#endif
  poll();
#ifdef REFS_EARLY
  put_record();
#else
  put_objects();
#endif
  commit();
again:
  atomic { CLEAR; FORGET_LIST };
  if :: sid == first && me < RESTARTS -> sid = first + 1; goto start :: else fi;
end:
  atomic { CLEAR; sid = 0; ended = ended | BIT(me) }
  }
#if CRASHES > 0
  unless { CRASHED(me) }
#endif
}
