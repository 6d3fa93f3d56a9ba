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
MEMORY_BYTES_MIN = 96 * MIB
"""Below this, one pack in the making and one on its way up do not fit beside the interpreter."""
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
RETRY_COUNT_MAX = 8
RETRY_SECONDS_MIN = 0.2
RETRY_SECONDS_MAX = 20.0
"""Pause between attempts: doubles from the least to the most, and is then drawn from its upper half."""
READ_REQUEST_BYTES = 8 * MIB
"""Ranges that a restore asks for are joined up to about this size."""
READS_IN_FLIGHT = 32
"""From a store where a request costs milliseconds."""
READS_IN_FLIGHT_LOCAL = 4
PUTS_IN_FLIGHT = 2
"""Packs on their way up. Each costs its size in memory."""

# --- sessions and prune -----------------------------------------------------------------------------
CHECKPOINT_SECONDS = 240.0
"""A killed backup repeats less than five minutes of work."""
GENERATION_POLL_SECONDS = 60.0
"""How often an open session reads `gc/state`."""
FENCE_SECONDS_MIN = 15 * 60.0
"""How long prune waits for a session that does not acknowledge. Liveness only; see docs/format.md."""
FORGET_GRACE_SECONDS = 7 * 24 * 3600.0
"""How long a forgotten snapshot can be brought back."""

RECHECK_PERCENT_DEFAULT = 1.0
"""Of the bytes of unchanged files, read and compared with what is stored."""
RECHECK_BYTES_MAX = 4 * GIB
"""About so much in one backup, unless the share is asked for."""
REPACK_ONE_IN = 8
"""Of so many backups, one reads the parent's tree for chunks of small files that are mostly unused."""
STOP_SECONDS_MAX = 30.0
"""How long a backup that was asked to stop may take for its last checkpoint."""
SESSION_START_COUNT_MAX = 20
"""Attempts to begin a session between two prunes."""
SESSION_RETRY_COUNT_MAX = 3
"""How often a backup whose session prune has ended starts over."""

RESTORE_JOURNAL_SECONDS = 30
"""How often a restore notes how far it is, at most: all that it says must be durable first. Whole seconds."""

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

# --- progress ---------------------------------------------------------------------------------------
PROGRESS_SECONDS = 0.1

assert CHUNK_BYTES_MIN < CHUNK_BYTES_AVERAGE < CHUNK_BYTES_MAX <= BLOB_RAW_BYTES_MAX
assert PAGE_BYTES_AVERAGE < BLOB_RAW_BYTES_MAX < PACK_BYTES_DEFAULT <= PACK_BYTES_MAX
assert 2 * PACK_BYTES_DEFAULT < MEMORY_BYTES_MIN <= MEMORY_BYTES_DEFAULT
assert SWAPPED_BYTES_MAX < PACK_BYTES_DEFAULT
assert READ_REQUEST_BYTES <= PACK_BYTES_DEFAULT
assert 0 < RETRY_SECONDS_MIN < RETRY_SECONDS_MAX < GENERATION_POLL_SECONDS
assert FENCE_SECONDS_MIN >= 10 * GENERATION_POLL_SECONDS
assert CHECKPOINT_SECONDS + GENERATION_POLL_SECONDS <= 300.0
