"""The key tree (section 4 of the format). All keys are 32 bytes; `epoch` is the u32 from 1."""

import struct

from blake3 import blake3

_CONTEXT = "pvback v1 2026-11-20 "


def digest(data: bytes) -> bytes:
    """BLAKE3-256 of `data`."""
    return blake3(data).digest()


def keyed(key: bytes, data: bytes) -> bytes:
    """BLAKE3-256 of `data` in keyed mode: the id of a chunk or page."""
    return blake3(data, key=key).digest()


def derive(label: str, key: bytes, context: bytes = b"", length: int = 32) -> bytes:
    """KDF(label, key, context): a purpose key by `derive_key`, then keyed BLAKE3 of the context."""
    purpose = blake3(key, derive_key_context=_CONTEXT + label).digest()
    return blake3(context, key=purpose).digest(length)


def _scope_epoch(scope: bytes, epoch: int) -> bytes:
    return scope + struct.pack("<I", epoch)


def write_master(master: bytes) -> bytes:
    """W: root of everything that writers hold."""
    return derive("write master", master)


def restore_master(master: bytes) -> bytes:
    """R: root of the data secret keys."""
    return derive("restore master", master)


def dedup_key(write: bytes, scope: bytes) -> bytes:
    """K_dom of a scope, from W."""
    return derive("dedup domain", write, scope)


def chunk_id_key(dedup: bytes) -> bytes:
    """K_id, from K_dom."""
    return derive("chunk id", dedup)


def chunker_key(dedup: bytes) -> bytes:
    """K_cdc, from K_dom."""
    return derive("chunker", dedup)


def source_id(dedup: bytes, source: str) -> bytes:
    """The 16-byte id of a source string, from K_dom."""
    return derive("source id", dedup, source.encode("utf-8", "surrogateescape"), 16)


def index_key(write: bytes, scope: bytes, epoch: int) -> bytes:
    """K_index, from W."""
    return derive("index", write, _scope_epoch(scope, epoch))


def meta_key(write: bytes, scope: bytes, epoch: int) -> bytes:
    """K_meta, from W."""
    return derive("meta", write, _scope_epoch(scope, epoch))


def source_key(meta: bytes, source: bytes) -> bytes:
    """K_src, from K_meta and the source's id."""
    return derive("source", meta, source)


def page_key(source: bytes) -> bytes:
    """K_page, from K_src."""
    return derive("page key", source)


def page_id_key(source: bytes) -> bytes:
    """K_pid, from K_src."""
    return derive("page id", source)


def data_secret(restore: bytes, scope: bytes, epoch: int) -> bytes:
    """The X25519 private key of an epoch, from R."""
    return derive("data epoch", restore, _scope_epoch(scope, epoch))


def identity_key(master: bytes, principal: bytes) -> bytes:
    """K_ident, from W, or from R for owners and restorers."""
    return derive("identity", master, principal)


def owner_seed(master: bytes) -> bytes:
    """The owner's Ed25519 seed, from M."""
    return derive("owner sign", master)


def principal_seed(write: bytes, principal: bytes) -> bytes:
    """A principal's Ed25519 seed, from W."""
    return derive("principal sign", write, principal)
