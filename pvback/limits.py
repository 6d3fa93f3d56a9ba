"""Every bound and default, with its unit in its name. Relations between them are asserted at import."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- identifiers ------------------------------------------------------------------------------------
CHUNK_ID_BYTES = 32
"""Keyed BLAKE3-256."""
RANDOM_ID_BYTES = 16
"""Repositories, scopes, principals, snapshots, packs: random, so that nobody has to hand them out."""
SHORT_ID_DIGITS = 8
"""Hexadecimal digits shown to people; stored and compared in full."""

# --- chunks, blobs, packs ---------------------------------------------------------------------------
CHUNK_BYTES_AVERAGE = 512 * KIB
CHUNK_BYTES_MIN = CHUNK_BYTES_AVERAGE // 2
CHUNK_BYTES_MAX = CHUNK_BYTES_AVERAGE * 3 // 2
CHUNK_BYTES_FIXED = 128 * KIB
"""For devices, images, and where asked for: page-aligned, so that updates in place move no boundary."""
BLOB_RAW_BYTES_MAX = 16 * MIB
"""A blob that claims to hold more is refused before anything is decompressed."""
PAGE_BYTES_AVERAGE = 64 * KIB
PACK_BYTES_DEFAULT = 32 * MIB
PACK_BYTES_MAX = 128 * MIB
PACK_COUNT_AIM = 20_000
"""Packs grow so that there are not many more: each is listed, and looked at by prune."""
RUN_BYTES_PER_CHUNK = 28
"""What the index takes for a chunk."""

# --- the process ------------------------------------------------------------------------------------
MEMORY_BYTES_DEFAULT = 256 * MIB
INTERPRETER_BYTES = 88 * MIB
"""Of them, what Python, the libraries of the store and its connections take: 57 MiB before any work begins,
75 while a restore reads from S3."""
OTHER_STORE_BYTES = 12 * MIB
"""What a second repository takes that is open beside the first, with its client and connections."""
MEMORY_BYTES_MIN = INTERPRETER_BYTES + 64 * MIB
"""Below this, one pack in the making and some on their way up do not fit beside the interpreter."""
PASSWORD_COMMAND_SECONDS_MAX = 60
PASSWORD_BYTES_MAX = 64 * KIB
CONFIG_FILE_BYTES_MAX = 1 * MIB

# --- object storage ---------------------------------------------------------------------------------
KEY_BYTES_MAX = 512
"""S3 allows 1,024 with the repository's own prefix."""
SWAPPED_BYTES_MAX = 1 * MIB
"""What is compared and swapped is small; a store need not name the content of anything bigger."""
LIST_PAGE_COUNT = 1000
"""Objects in one answer to a list request, as S3 has it."""
DELETE_BATCH_COUNT = 1000
"""Objects in one delete request, as S3 has it."""
RETRY_COUNT_MAX = 12
RETRY_COUNT_FIRST_MAX = 5
"""While a store has not answered once."""
RETRY_SECONDS_MIN = 0.2
RETRY_SECONDS_MAX = 20.0
"""Pause between attempts: doubles from the least to the most, and is then drawn from its upper half."""
RETRY_THROTTLED_SECONDS_MIN = 1.0
"""The first pause after a store that says it is asked too much."""
RETRY_DEADLINE_SECONDS = 300.0
"""Of one request with all its repeats; no attempt begins later."""
LOCK_SECONDS_MIN = 86_400
LOCK_SECONDS_MAX = 10 * 31_557_600
"""Of Object Lock: a slip of the keyboard must not keep things for a century."""
S3_MULTIPART_BYTES = 64 * MIB
S3_PART_BYTES = 16 * MIB
S3_PART_BYTES_MIN = 5 * MIB
S3_PUT_BYTES_MAX = 5 * GIB
S3_PARTS_IN_FLIGHT = 4
"""Of one object. They are views of the caller's buffer and cost no memory of their own."""
S3_CONNECT_SECONDS = 10.0
S3_READ_SECONDS = 30.0
S3_CONFLICT_COUNT_MAX = 6
"""Attempts at a conditional write that another one at the same time makes the service put off."""
HEDGE_SAMPLE_COUNT = 200
HEDGE_SAMPLE_COUNT_MIN = 50
"""Reads of the same size whose times say what is late; fewer say nothing."""
HEDGE_SHARE_MAX = 0.05
"""Of all reads, so many are repeated at most."""
HEDGE_SECONDS_MIN = 0.05
HEDGES_IN_FLIGHT = 4
PROBE_THREAD_COUNT = 6
PROBE_ROUND_COUNT = 3
"""Requests that race when a new repository tries its store's conditional writes, and how often."""
INIT_LEFT_OVER_COUNT_MAX = 1000
"""Objects that may lie where a repository is made, all of them of an `init` that ended too early."""
READ_REQUEST_BYTES = 8 * MIB
"""Ranges that a restore asks for are joined up to about this size."""
READS_IN_FLIGHT = 32
"""From a store where a request costs milliseconds."""
READS_IN_FLIGHT_LOCAL = 4
PUTS_IN_FLIGHT = 2
"""Packs on their way up. Each costs its size in memory."""

S3_CONNECTIONS = READS_IN_FLIGHT + PUTS_IN_FLIGHT * S3_PARTS_IN_FLIGHT + HEDGES_IN_FLIGHT
"""Kept open; what needs more opens others that are not kept."""

# --- sessions and prune -----------------------------------------------------------------------------
CHECKPOINT_SECONDS = 240.0
"""A killed backup repeats less than five minutes of work."""
GENERATION_POLL_SECONDS = 60.0
"""How often an open session reads `gc/state`."""
FENCE_SECONDS_MIN = 15 * 60.0
"""How long prune waits for a session that does not acknowledge. Liveness only; see docs/format.md."""
FENCE_QUIET_SECONDS = 3600.0
"""A session that has written nothing for so long is taken for dead, and is waited for less."""
FENCE_QUIET_WAIT_SECONDS = 3 * GENERATION_POLL_SECONDS
TIMED_VIEW_SECONDS = 3600.0
"""Without conditional writes: a session commits by a view of `gc/state` that is no older."""
TIMED_LATE_SECONDS = 1800.0
"""Without conditional writes: a request that was not answered lands within so long, or never. A signed one is
too old for a store after a quarter of an hour."""
TIMED_SEND_SECONDS = 1800.0
"""Without conditional writes: nobody takes longer from a look at its clock to the request that follows."""
TIMED_ACK_SECONDS = 6 * 3600.0
"""Without conditional writes: a session takes note of a generation within so long of the one before."""
TIMED_WAIT_SECONDS = 20 * 3600.0
"""Without conditional writes: how long a prune lets pass after each step; less than from night to night.
See `pvback.repository.timing`.
"""
RUN_MERGE_COUNT = 16
"""So many index runs on top of those of the last prune, and a backup merges them first."""
GATHERED_COUNT_MIN = 2
"""So few registers are read one by one."""
GATHERED_BYTES_MAX = 8 * MIB
"""Of registers that prune gathers in one object, or a cache keeps: some thousands."""
GENERATIONS_WITHOUT_TRACE = 1 << 20
"""By so much a repair of `gc/state` goes beyond all generations that names tell: far more cycles than a
repository lives to see."""
GENERATIONS_AHEAD_MAX = 1 << 19
"""What is of a generation so far above the current one was made by such a repair, which did not end."""
GC_LIST_COUNT_MAX = 2000
"""Names in a list inside `gc/state`; a longer one becomes an object of its own."""
UNUSED_PACK_SECONDS = 24 * 3600.0
"""Packs that nothing needs are left alone while they are younger: a backup that was killed may go on."""
PRUNE_UNUSED_SHARE_MAX = 0.05
"""How much of what is stored may be unused before packs are written again."""
PRUNE_SMALL_PACK_COUNT = 8
"""So many packs of less than a quarter of the usual size are put together."""
PRUNE_RESTART_COUNT_MAX = 10
"""How often prune begins again because another one was faster."""
FORGET_SHARE_MAX = 0.5
"""A policy that would forget more of the snapshots has to be confirmed."""
SHRINK_SHARE_MAX = 0.9
"""Nothing is forgotten of a source that has lost more than this of its files or bytes."""
SHRINK_NODES_MIN = 10
SHRINK_BYTES_MIN = MIB
"""Where it had so many files, or bytes, that this says something."""
FORGET_GRACE_SECONDS = 7 * 24 * 3600.0
"""How long a forgotten snapshot can be brought back."""

VERIFIED_PACK_COUNT_MAX = 200_000
"""Packs of which a client remembers when it has read them: about 10 MB of a file."""

RECHECK_PERCENT_DEFAULT = 1.0
"""Of the bytes of unchanged files, read and compared with what is stored."""
RECHECK_BYTES_MAX = 4 * GIB
"""About so much in one backup, unless the share is asked for."""
REPACK_ONE_IN = 8
"""Of so many backups, one reads the parent's tree for chunks of small files that are mostly unused."""
STOP_SECONDS_MAX = 100.0
"""How long a backup that was asked to stop may take for its last checkpoint: what is in memory has to get
through a slow link first. Whoever asks twice does not wait."""
SESSION_START_COUNT_MAX = 20
"""Attempts to begin a session between two prunes."""
SESSION_RETRY_COUNT_MAX = 3
"""How often a backup whose session prune has ended starts over."""

RESTORE_JOURNAL_SECONDS = 30
"""How often a restore notes how far it is, at most: all that it says must be durable first. Whole seconds."""

BROWSE_LIST_SECONDS = 10.0
"""How old a list of snapshots may be that somebody who browses is shown; longer where listing is slow."""
BROWSE_ROWS = 1024
"""Entries of a directory that are asked for at a time."""
MOUNT_ENTRIES_KEPT = 4096
"""Attributes that a mount remembers from the last directories that were listed."""
MOUNT_KERNEL_SECONDS = 60.0
"""How long the kernel need not ask again for a name or attributes. What is in a snapshot never changes."""
MOUNT_REPEAT_SECONDS = 60.0
"""A problem that a mount has told of is not told again for so long."""

JOB_END_SECONDS = 1.0
"""How long a command that failed waits to see whether its job was just ending."""

# --- keys -------------------------------------------------------------------------------------------
ARGON2_MEMORY_KIB = 64 * 1024
ARGON2_PASSES = 3
ARGON2_LANES = 4
"""The memory-hard cost of a guess at a passphrase; docs/format.md has the bounds that readers accept."""
KEY_FILE_BYTES_MAX = 4 * KIB
KEY_COMMAND_SECONDS_MAX = 60
KEY_COMMAND_BYTES_MAX = 64 * KIB
"""What a key command may make of the 80 bytes that it is to seal."""
SWAP_COUNT_MAX = 8
"""How often a change of keys is tried again when somebody else changed the same object."""
CONFIG_OBJECT_BYTES_MAX = 1 * MIB

# --- Kubernetes -------------------------------------------------------------------------------------
CLUSTER_CONNECT_SECONDS = 5.0
CLUSTER_REQUEST_SECONDS = 30.0
CLUSTER_RETRY_SECONDS = 60.0
"""How long an API server that does not answer is asked again."""
CLUSTER_POLL_SECONDS = 0.5
SOLE_USE_SECONDS = 3.0
"""Between two looks at who has a claim that is written in place: each lists the pods of its namespace."""
CLUSTER_PAGE_COUNT = 500
HTTP_SWITCHED = 101
HTTP_UNAUTHORIZED, HTTP_FORBIDDEN, HTTP_ERROR_MIN, HTTP_SERVER_ERROR_MIN = 401, 403, 400, 500
MESSAGE_BYTES_MAX = 4 * KIB
"""Of a termination message; the kubelet keeps no more."""
MOVER_MEMORY_BYTES = 512 * MIB
MOVER_REQUEST_BYTES = 256 * MIB
MOVER_REQUEST_MILLIS = 250
"""Thousandths of a processor."""
MOVER_SPARE_BYTES = 128 * MIB
"""Of the container's limit, what is left to the kernel: pages of files that are being read and written."""
MOVER_CACHE_BYTES = 2 * GIB
MOVER_SCRATCH_BYTES = 64 * MIB
MOVER_DISK_BYTES = 256 * MIB
"""Of its node's disk a mover asks for so much, of what its cache, its scratch space and its log may take."""
MOVER_DEADLINE_SECONDS = 24 * 3600
MOVER_GRACE_SECONDS = 120
"""Between SIGTERM and SIGKILL: a checkpoint is stored."""
MOVER_KEPT_SECONDS = 3600
RUN_GRACE_SECONDS = MOVER_GRACE_SECONDS + 60
"""Of a pod that runs movers: they have theirs, and then all that was made is removed."""
NIGHTLY_DEADLINE_SECONDS = MOVER_DEADLINE_SECONDS + 3600
"""Of a nightly run: a mover that does not end is ended before it is."""
MOVER_WEDGED_SECONDS = 300.0
"""How long a mover may take until it runs; what is surely wrong is not waited for."""
MOVER_REFUSED_SECONDS = 15.0
"""How long the cluster may go on refusing to make its pod, or to pull its image."""
SETTLE_SECONDS = 20.0
"""How long a volume snapshot that is no longer wanted is waited for, to be deleted in order."""
STOP_WORKLOAD_SECONDS = 600.0
"""How long pods of a workload that was stopped may take to end: a database writes out what it holds."""
CLAIM_GONE_SECONDS = 60.0
"""How long a claim without pods may take to go, or to be bound to a volume that waits for it."""
STAGING_SECONDS = 600.0
"""How long a volume snapshot, and a claim made of it, may take."""
RUN_LIVES_SECONDS = 120.0
"""A run that has not said for so long that it lives is dead."""
RUN_BEAT_SECONDS = 20.0
MOVER_GROUP = 65532
"""The group of a mover that restores a volume of which no group is known: some group has to be let write."""
MOVERS_PER_NODE = 2
MOVERS_AT_ONCE = 8
POPULATE_POLL_SECONDS = 10.0
"""How often claims are looked at that wait for a populator."""
POPULATE_RETRY_SECONDS_MAX = 300.0
"""A claim that could not be filled is tried again after twice as long each time, and at least so often."""
EVENT_BYTES_MAX = 1024
"""Of an event's message: the API takes no more."""
EXPORT_NAME_BYTES_MAX = 200
"""Of one component of the path of an exported object: file systems allow 255 with what is put to it."""
FILE_PAGE_BYTES = 4 * KIB
"""What a file takes at least, where it is kept in memory."""
PRIVATE_FOLDER_SECONDS = 60.0
"""A private folder that is younger than that may be one that somebody is about to use."""
ESTABLISH_SECONDS = 60.0
"""How long a new kind may take until the cluster serves it."""
EXEC_POLL_SECONDS = 0.1
EXEC_CLOSE_SECONDS = 5.0
"""How long a stream may stay open after its Status."""
EXEC_RECEIVE_BYTES = 256 * KIB
EXEC_SEND_BYTES = 32 * KIB
EXEC_STATUS_BYTES_MAX = 64 * KIB
EXEC_BACKLOG_BYTES_MAX = 4 * MIB
"""What a command may print while it is being written to, before somebody reads it."""
EXEC_KEPT_BYTES = 8 * KIB
"""Of what a command prints, where it is only wanted for its last words."""
EXEC_WORDS_MAX = 500
CAPTURE_SECONDS = 6 * 3600.0
HOOK_SECONDS = 30.0
HOOK_LEASE_SECONDS = 60.0
HOOK_SECONDS_MAX = 24 * 3600.0
HOOK_TRIES = 3
HOOK_RETRY_SECONDS = 2.0
HOOK_THAW_SECONDS = 30.0
"""How long a quiesce may take to undo itself."""
HOOK_SETTLE_SECONDS = 1.0
"""For how long after the end of a live read who holds still for it is looked at: a word of its end that is on
its way comes meanwhile."""
MOVER_WORD_SECONDS = 180.0
"""How long a mover that has read a volume waits to be told that others held still to the end."""
HOOK_POLL_SECONDS = 0.1
"""How often is looked whether a volume snapshot is cut, while an application holds still for it."""
FREEZE_LEASE_SECONDS = 60.0
FREEZE_LEASE_SECONDS_MAX = 600.0
FREEZE_POLL_SECONDS = 0.05
FREEZE_LATE_SECONDS = 1.0
"""How much longer than the process that has frozen a file system its guard waits, before it thaws it."""
FREEZE_GRACE_SECONDS = 60
"""Between SIGTERM and SIGKILL of the guard: it waits for a freeze that is under way, to thaw it."""
FREEZE_POD_SECONDS = 3600
"""How long the pod from which a file system is frozen is there at most, `pre` of all hooks within."""
FREEZE_MEMORY_BYTES = 128 * MIB
HOOK_DEBT_TRIES = 5
"""How often a post hook of a run that was killed is tried before it is given up."""

# --- progress ---------------------------------------------------------------------------------------
PROGRESS_SECONDS = 0.1

assert CHUNK_BYTES_MIN < CHUNK_BYTES_AVERAGE < CHUNK_BYTES_MAX <= BLOB_RAW_BYTES_MAX
assert PAGE_BYTES_AVERAGE < BLOB_RAW_BYTES_MAX < PACK_BYTES_DEFAULT <= PACK_BYTES_MAX
assert 2 * PACK_BYTES_DEFAULT < MEMORY_BYTES_MIN <= MEMORY_BYTES_DEFAULT
assert SWAPPED_BYTES_MAX < PACK_BYTES_DEFAULT
assert READ_REQUEST_BYTES <= PACK_BYTES_DEFAULT
assert 0 < RETRY_SECONDS_MIN < RETRY_SECONDS_MAX < GENERATION_POLL_SECONDS
assert RETRY_SECONDS_MIN < RETRY_THROTTLED_SECONDS_MIN < RETRY_SECONDS_MAX < RETRY_DEADLINE_SECONDS
assert S3_PART_BYTES_MIN <= S3_PART_BYTES <= S3_MULTIPART_BYTES <= S3_PUT_BYTES_MAX
assert SWAPPED_BYTES_MAX < S3_PART_BYTES_MIN, "a swap is one request"
assert FENCE_SECONDS_MIN >= 10 * GENERATION_POLL_SECONDS
assert 2 * GENERATION_POLL_SECONDS < FENCE_QUIET_WAIT_SECONDS < FENCE_SECONDS_MIN < FENCE_QUIET_SECONDS
assert TIMED_VIEW_SECONDS < TIMED_ACK_SECONDS
assert 2 * (TIMED_ACK_SECONDS + TIMED_SEND_SECONDS + TIMED_LATE_SECONDS) < TIMED_WAIT_SECONDS
assert TIMED_WAIT_SECONDS < FORGET_GRACE_SECONDS
assert 6 * GC_LIST_COUNT_MAX * 64 < SWAPPED_BYTES_MAX
assert 2 * GENERATIONS_AHEAD_MAX <= GENERATIONS_WITHOUT_TRACE
assert CHECKPOINT_SECONDS + GENERATION_POLL_SECONDS <= 300.0
assert STOP_SECONDS_MAX < MOVER_GRACE_SECONDS, "a checkpoint is stored before the kubelet kills"
assert MEMORY_BYTES_MIN <= MOVER_MEMORY_BYTES - MOVER_SPARE_BYTES
assert FREEZE_POLL_SECONDS < FREEZE_LATE_SECONDS
assert FREEZE_LEASE_SECONDS_MAX < FREEZE_POD_SECONDS
assert 4 * RUN_BEAT_SECONDS < RUN_LIVES_SECONDS
assert CLUSTER_RETRY_SECONDS < RUN_LIVES_SECONDS
assert HOOK_SETTLE_SECONDS + HOOK_THAW_SECONDS + 2 * CLUSTER_RETRY_SECONDS < MOVER_WORD_SECONDS
