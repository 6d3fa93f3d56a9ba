/* Requests that land late, LISTs that catch up, clients that crash. */
#if LATE > 0
inline land(z) {
  if
  :: late_kind[z] == LATE_SWAP ->
     if
     :: IS_AT(late_to[z], late_etag[z]) -> write_register(late_to[z], late_state[z], late_gen[z], late_keep[z])
#if defined(BUG_COMMIT_LATE)
     :: !IS_AT(late_to[z], late_etag[z]) && late_state[z] == COMMITTED -> write_register(late_to[z], COMMITTED, 0, 0)
#endif
     :: else
     fi
  :: late_kind[z] == LATE_CREATE -> create_register(late_to[z], late_gen[z])
  :: late_kind[z] == LATE_PACK -> packs = packs | BIT(late_to[z])
  :: late_kind[z] == LATE_RUN -> put_run(late_to[z], late_gen[z])
  :: late_kind[z] == LATE_PACK_DELETE -> packs = packs & ~BIT(late_to[z])
  :: late_kind[z] == LATE_RUN_DELETE -> runs = runs & ~BIT(late_to[z])
  :: late_kind[z] == LATE_REGISTER_DELETE -> delete_register(late_to[z])
  :: late_kind[z] == LATE_PUBLISH -> if :: gc_etag == late_etag[z] -> publish(late_to[z]) :: else fi
  :: late_kind[z] == LATE_DOOM -> if :: gc_etag == late_etag[z] -> doom(late_to[z]) :: else fi
#ifdef OBJECTS
  :: late_kind[z] == LATE_REFS -> refs = refs | BIT(late_to[z])
  :: late_kind[z] == LATE_RECORD -> records = records | BIT(late_to[z])
  :: late_kind[z] == LATE_REFS_DELETE -> refs = refs & ~BIT(late_to[z])
  :: late_kind[z] == LATE_RECORD_DELETE -> records = records & ~BIT(late_to[z])
#endif
  fi;
  printf("   late request lands: kind %d on %d\n", late_kind[z], late_to[z]);
  DROP(z);
  check()
}
active proctype Network() {
end_network:
  do
  :: d_step { late_kind[0] != LATE_NOTHING -> land(0) }
#if LATE > 1
  :: d_step { late_kind[1] != LATE_NOTHING -> land(1) }
#endif
#if LATE > 2
  :: d_step { late_kind[2] != LATE_NOTHING -> land(2) }
#endif
  od
}
#endif

#ifdef LAG
active proctype Listing() {
end_listing:
  do
  :: d_step { unlisted_runs != 0 -> unlisted_runs = 0 }
  :: d_step { unlisted_regs != 0 -> unlisted_regs = 0 }
  od
}
#endif

#if CRASHES > 0
#define CRASHED(client) IN(crashed, client)
active proctype Crash() {
end_crash:
  do
  :: d_step { crash_count < CRASHES && !CRASHED(0) -> crashed = crashed | 1; crash_count++ }
  :: d_step { crash_count < CRASHES && !CRASHED(1) -> crashed = crashed | 2; crash_count++ }
  :: d_step { crash_count < CRASHES && !CRASHED(2) -> crashed = crashed | 4; crash_count++ }
  :: d_step { crash_count < CRASHES && !CRASHED(3) -> crashed = crashed | 8; crash_count++ }
  od
}
#endif
