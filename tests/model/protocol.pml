/* Commit and prune without locks, as a model for Spin. README.md in this directory tells how to run it.
 *
 * One step of a process is one request to the store, or several that nobody can tell from one. The processes
 * are the clients (writer.pml, prune.pml, clients.pml); what they share is the store (store.pml). After every
 * step that changes the store the invariants are checked (invariants.pml). A client that crashes is one that
 * never moves again: since no process is ever made to move, each run without explicit crashes covers a crash
 * at every point.
 *
 * Options, given to spin as -D:
 *   WRITERS=0..2       writers; the first wants chunks a and c, the second SECOND_WANTS (default b and c)
 *   RESTARTS=0..2      how many of the writers begin once more when they are fenced (2)
 *   PRUNES=0..2        prunes, each of which publishes at most one generation
 *   REPACKS=0..2       how many of them repack, declare DEAD and choose what to condemn; the others condemn
 *                      all that they see (2)
 *   LATE=0..3          requests without an answer, which land at any later time or never (0)
 *   LATE_COMMIT_ONLY   only commits go without answer
 *   REPLAY             requests that were answered may land a second time, out of the same number
 *   ANSWERED           no request goes without answer: those of LATE are second landings only
 *   FORGET UNDELETE    somebody forgets snapshot 0, and perhaps brings it back
 *   FORGOTTEN_BEFORE   snapshot 0 is DEAD from the beginning
 *   RESTORE            somebody restores snapshot 5
 *   MERGE              a session merges index runs
 *   REFUSED            its deletes may be refused
 *   LAG                a LIST may miss what is new
 *   LIST_BESIDE        a writer lists runs beside its second look at gc/state, and not after it
 *   OBJECTS            reference sets and records are objects of their own
 *   REFS_EARLY         a writer stores its reference set before its pack and its run, and not after them
 *   RESUME             the first writer makes a checkpoint; the second, of the same source, goes on from it
 *   BASES              a doom may add a base run to those that there are, and carry `dead` on
 *   MARKS              prune re-marks by what it counted before it published, and hands its marks to the next
 *   REPAIR             snapshot 0's register is lost and made again from its record
 *   ABANDON            somebody abandons the cycle that is under way, once
 *   REVIVE             snapshot 0's register is lost and made anew, committed, under a new generation
 *   REOPEN             snapshot 0's register is lost and comes back OPEN, as its create lands a second time
 *   FINISH             a repair commits a register that is OPEN beside the record of its snapshot
 *   CRASHES=0..n       explicit crashes, which only DRAIN needs to know of (0)
 *   DRAIN              when nobody can move: undisturbed prunes must leave no garbage
 *   COARSE=0..3        steps taken together, for scopes that are too large otherwise (README.md)
 *   DELETE_ONE         deletes step by step and not an area in one
 *   LOSS_ONLY          only loss is an error (I1, S1, S2, S5), not a step backwards (M) or a refusal
 *   BUG_...            a seeded bug, which the checker must find; `grep BUG_ *.pml`
 */
#ifndef WRITERS
#define WRITERS 1
#endif
#ifndef RESTARTS
#define RESTARTS 2
#endif
#ifndef PRUNES
#define PRUNES 1
#endif
#ifndef REPACKS
#define REPACKS 2
#endif
#ifndef LATE
#define LATE 0
#endif
#ifndef CRASHES
#define CRASHES 0
#endif
#ifndef COARSE
#define COARSE 0
#endif
#ifdef RESUME
#define SECOND_WANTS 5 /* the same source */
#endif
#ifndef SECOND_WANTS
#define SECOND_WANTS 6
#endif

#include "store.pml"
#include "invariants.pml"
#include "landing.pml"
#include "writer.pml"
#include "prune.pml"
#include "clients.pml"
#ifdef DRAIN
#include "drain.pml"
#endif

init {
  d_step {
    pack_chunks[0] = 3;
    for (k_ : 0 .. 6) { run_packs[k_] = BIT(k_) }
    reg_state[0] = COMMITTED; reg_needs[0] = 3; reg_etag[0] = 1;
    reg_state[5] = COMMITTED; reg_needs[5] = 2; reg_etag[5] = 1;
#ifdef FORGOTTEN_BEFORE
    reg_state[0] = DEAD;
#endif
    reg_needs[1] = 5; reg_needs[2] = 5;
    reg_needs[3] = SECOND_WANTS; reg_needs[4] = SECOND_WANTS
#if defined(REPAIR) || defined(REVIVE)
    ; reg_needs[7] = 3
#endif
  };
  atomic {
#ifdef FORGET
    run Forget();
#endif
#ifdef RESTORE
    run Restore();
#endif
#ifdef MERGE
    run Merge();
#endif
#ifdef ABANDON
    run Abandon();
#endif
#ifdef REVIVE
    run Accident();
    run Revive();
#endif
#ifdef REPAIR
    run Accident();
    run Repair();
#endif
#ifdef REOPEN
    run Reopen();
#endif
#ifdef FINISH
    run Finish();
#endif
#if WRITERS > 0
    run Writer(0, 1, 5);
#endif
#if WRITERS > 1
    run Writer(1, 3, SECOND_WANTS);
#endif
#if PRUNES > 0
    run Prune(0);
#endif
#if PRUNES > 1
    run Prune(1);
#endif
    skip
  }
}
