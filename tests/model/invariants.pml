/* What must hold after every step that changes the store. README.md says what the names mean.
 *
 * I1     every usable entry names a pack that is there
 * S1 S2  each chunk of each valid snapshot, committed or forgotten, has a usable entry in a pack that is there
 * S5     what was reported "saved" stays valid and COMMITTED until it is forgotten (nobody forgets those)
 * R      the reference set and the record of such a snapshot are there
 * O      a snapshot whose register came back OPEN is whole, and counts: OPEN, FENCED for a moment, COMMITTED
 * M      is asserted where things are written (store.pml), S3 and S4 in drain.pml */
#if LATE > 0 && !defined(REPLAY) && !defined(BUG_COMMIT_BLIND) && !defined(BUG_COMMIT_LATE) && !defined(BUG_STATE_BLIND)
/* A swap whose etag has gone will never do anything: fewer states without it. */
#define FORGET_SPENT
#define IS_SPENT(z) \
  ((late_kind[z] == LATE_SWAP && !IS_AT(late_to[z], late_etag[z])) \
   || ((late_kind[z] == LATE_PUBLISH || late_kind[z] == LATE_DOOM) && gc_etag != late_etag[z]))
#endif

inline check() {
#ifdef FORGET_SPENT
  for (k_ : 0 .. LATE - 1) { if :: IS_SPENT(k_) -> DROP(k_) :: else fi }
#endif
  load_now(set_, gc_floor, gc_base);
  set_ = set_ & ~gc_dead;
  assert((set_ & ~packs) == 0); /* I1 */
  chunks_of(have_, set_);
  for (k_ : 0 .. REGISTERS - 1) {
    if
    :: LIVE(k_) && REG_VALID(k_, gc_floor, gc_roster) ->
       assert((reg_needs[k_] & ~have_) == 0); /* S1, S2 */
#ifdef OBJECTS
       assert(IN(refs, OBJECTS_OF(k_)) && IN(records, OBJECTS_OF(k_))) /* R */
#endif
    :: else
    fi;
#ifdef REOPEN
    if
    :: IN(reopened, k_) -> assert((reg_state[k_] == OPEN || reg_state[k_] == FENCED || reg_state[k_] == COMMITTED) && REG_VALID(k_, gc_floor, gc_roster)
         && (reg_needs[k_] & ~have_) == 0 && IN(refs, k_) && IN(records, k_)) /* O */
    :: else
    fi;
#endif
    if
    :: IN(told, k_) -> assert(reg_state[k_] == COMMITTED && REG_VALID(k_, gc_floor, gc_roster)) /* S5 */
    :: else
    fi
  };
  k_ = 0
}
