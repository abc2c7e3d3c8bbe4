//! The compiled manifest: what the compiler hands to PID 1 and to the committer.
//!
//! One flat byte string: a header, a table of fixed-size unit records sorted by address, edge tables in both
//! directions, encoded specifications and a string table. PID 1 maps it from a sealed memfd and reads it in
//! place; nothing in it is trusted before [`Manifest::parse`] has checked every offset once. File contents are
//! never in it: they are named by digest.
//!
//! Layout, all numbers little endian: header of 80 bytes (magic, version, unit count, edge count, then
//! offset and length of the specification and string areas, how much of the strings is declared, then a SHA-256), unit
//! records, edges sorted by (from, to, kind), reverse edges, specifications, strings.
//!
//! The digest is of what is declared: where that stands in which file comes last among the strings, and is left out with
//! what points there; the last 8 bytes of the header are a checksum of both. In version 1 the digest is of everything after
//! the header.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::address::{Address, Kind};
use crate::kind::Spec;

/// First bytes of every manifest.
const MAGIC: &[u8; 8] = b"HOLDFAST";
/// Version of the layout below; readers also read the version before.
pub const VERSION: u32 = 2;
/// The version in which the digest was of origins too.
const WITH_ORIGINS: u32 = 1;
/// Bytes of the header.
const HEADER: usize = 80;
/// Bytes of a unit record.
const UNIT: usize = 88;
/// Where in a unit record its origin is pointed to.
const ORIGIN: std::ops::Range<usize> = 56..64;
/// Bytes of an edge record.
const EDGE: usize = 16;
/// Largest manifest that is accepted: 256 MiB, some 2 million units.
pub const MAX_BYTES: usize = 256 << 20;

/// A unit's number in one manifest; two manifests number differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct UnitId(pub u32);

impl UnitId {
    /// As an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What an edge means (semantics §2). The numbers are written into manifests and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EdgeKind {
    /// Gate to start: waits until ready.
    Requires = 0,
    /// The same, and its loss stops me, its return starts me.
    Binds = 1,
    /// Waits until it has settled.
    Wants = 2,
    /// Ordering only, if both are desired.
    After = 3,
    /// I reload when it changed. Implies no ordering beyond its own `Requires` edge, which the compiler adds.
    ReloadOn = 4,
    /// I restart when it changed.
    RestartOn = 5,
}

impl EdgeKind {
    /// The edge kind with this number.
    pub fn from_number(number: u8) -> Option<EdgeKind> {
        Some(match number {
            0 => EdgeKind::Requires,
            1 => EdgeKind::Binds,
            2 => EdgeKind::Wants,
            3 => EdgeKind::After,
            4 => EdgeKind::ReloadOn,
            5 => EdgeKind::RestartOn,
            _ => return None,
        })
    }

    /// The key in state files.
    pub const fn word(self) -> &'static str {
        match self {
            EdgeKind::Requires => "requires",
            EdgeKind::Binds => "binds",
            EdgeKind::Wants => "wants",
            EdgeKind::After => "after",
            EdgeKind::ReloadOn => "reload-on",
            EdgeKind::RestartOn => "restart-on",
        }
    }
}

/// An edge as it stands in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge<'a> {
    /// The other end: what is depended on in [`Manifest::deps`], who depends in [`Manifest::rdeps`].
    pub unit: UnitId,
    /// What it means.
    pub kind: EdgeKind,
    /// Why it exists, for auto-edges ("user of the service"); empty for edges that were written.
    pub reason: &'a str,
}

/// Bits of [`UnitView::flags`].
pub mod flags {
    /// Drift is reported, not repaired.
    pub const REPORT: u8 = 1;
    /// Created if absent, never repaired.
    pub const SEED: u8 = 2;
    /// Up only when started by hand.
    pub const MANUAL: u8 = 4;
    /// Up while a running unit requires it.
    pub const ON_DEMAND: u8 = 8;
    /// Left in place when no longer declared.
    pub const KEEP_ON_REMOVAL: u8 = 16;
    /// Values are secret.
    pub const SECRET: u8 = 32;
}

/// One unit, as the record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitView<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: &'a str,
    /// See [`flags`].
    pub flags: u8,
    /// Milliseconds of quiet after an event before the unit is looked at.
    pub settle: u16,
    /// Digest of kind, name and specification (content included, edges not).
    pub digest: [u8; 16],
    /// Equal and non-zero in two units that cannot both be up: same path, same uid …
    pub claim: u64,
    /// Name of the layer that declares it.
    pub layer: &'a str,
    /// `file:line` of its declaration.
    pub origin: &'a str,
    /// What a person wrote about it; empty without.
    pub description: &'a str,
}

impl UnitView<'_> {
    /// Its address.
    pub fn address(&self) -> Address {
        Address::new(self.kind, self.name)
    }
}

/// Why bytes are no manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Wrong magic.
    #[error("not a compiled manifest")]
    Magic,
    /// A version this program cannot read.
    #[error("compiled manifest of version {0}, but this program reads version {VERSION}")]
    Version(u32),
    /// Larger than [`MAX_BYTES`].
    #[error("compiled manifest is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// An offset, count, number or string that cannot be.
    #[error("compiled manifest is damaged: {0}")]
    Damaged(&'static str),
}

/// Anything that holds bytes: a vector, or a mapping of a sealed memfd.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A checked manifest. Cloning shares the bytes.
#[derive(Clone)]
pub struct Manifest {
    bytes: Bytes,
    units: u32,
    edges: usize,
    rev: usize,
    specs: (usize, usize),
    strings: (usize, usize),
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Manifest({} units, {:02x?})", self.units, self.digest().get(..4).unwrap_or_default())
    }
}

impl PartialEq for Manifest {
    fn eq(&self, other: &Manifest) -> bool {
        self.digest() == other.digest()
    }
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(b.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(b.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

impl Manifest {
    /// Checks the bytes: afterwards no accessor can fail. Linear in their number; the digest is not recomputed
    /// (see [`Manifest::verify_digest`]).
    ///
    /// # Errors
    /// When the bytes are not a manifest of this version, or anything in them points outside.
    pub fn parse(bytes: Bytes) -> Result<Manifest, ManifestError> {
        use ManifestError::Damaged;
        let b: &[u8] = (*bytes).as_ref();
        if b.len() > MAX_BYTES {
            return Err(ManifestError::TooLarge);
        }
        if b.get(..8) != Some(MAGIC) {
            return Err(ManifestError::Magic);
        }
        let word = |at| u32_at(b, at).ok_or(Damaged("header")).map(|v| v as usize);
        let version = u32_at(b, 8).ok_or(Damaged("header"))?;
        if version != VERSION && version != WITH_ORIGINS {
            return Err(ManifestError::Version(version));
        }
        let (units, edges) = (word(12)?, word(16)?);
        let specs = (word(20)?, word(24)?);
        let strings = (word(28)?, word(32)?);
        let edge_start =
            units.checked_mul(UNIT).and_then(|n| n.checked_add(HEADER)).ok_or(Damaged("count"))?;
        let size = edges.checked_mul(EDGE).ok_or(Damaged("count"))?;
        let rev_start = edge_start.checked_add(size).ok_or(Damaged("count"))?;
        let end = rev_start.checked_add(size).ok_or(Damaged("count"))?;
        let areas_fit = specs.0 == end
            && specs.0.checked_add(specs.1) == Some(strings.0)
            && strings.0.checked_add(strings.1) == Some(b.len());
        if !areas_fit {
            return Err(Damaged("areas"));
        }
        let text = b.get(strings.0..).and_then(|s| std::str::from_utf8(s).ok()).ok_or(Damaged("strings"))?;
        let m = Manifest {
            units: u32::try_from(units).map_err(|_| Damaged("count"))?,
            edges: edge_start,
            rev: rev_start,
            specs,
            strings,
            bytes: Arc::clone(&bytes),
        };
        let mut previous: Option<(u8, &str)> = None;
        for i in 0..units {
            let at = HEADER + i * UNIT;
            let record = b.get(at..at + UNIT).ok_or(Damaged("unit"))?;
            let kind = *record.first().ok_or(Damaged("unit"))?;
            Kind::from_number(kind).ok_or(Damaged("kind"))?;
            let string = |o| -> Option<&str> {
                let (s, l) = (u32_at(record, o)? as usize, u32_at(record, o + 4)? as usize);
                text.get(s..s.checked_add(l)?)
            };
            let name = string(4).ok_or(Damaged("name"))?;
            string(48).ok_or(Damaged("layer"))?;
            string(56).ok_or(Damaged("origin"))?;
            string(80).ok_or(Damaged("description"))?;
            if previous.is_some_and(|p| p >= (kind, name)) {
                return Err(Damaged("order"));
            }
            previous = Some((kind, name));
            for o in [12, 20, 28] {
                let limit = if o == 12 { specs.1 } else { edges };
                let (s, l) = (u32_at(record, o), u32_at(record, o + 4));
                let (Some(s), Some(l)) = (s, l) else { return Err(Damaged("range")) };
                if (s as usize).checked_add(l as usize).is_none_or(|e| e > limit) {
                    return Err(Damaged("range"));
                }
            }
        }
        for i in 0..edges * 2 {
            let at = edge_start + i * EDGE;
            let target = u32_at(b, at).ok_or(Damaged("edge"))?;
            let kind = *b.get(at + 4).ok_or(Damaged("edge"))?;
            let (s, l) = (u32_at(b, at + 8), u32_at(b, at + 12));
            let (Some(s), Some(l)) = (s, l) else { return Err(Damaged("edge")) };
            let reason = (s as usize).checked_add(l as usize).and_then(|e| text.get(s as usize..e));
            if target as usize >= units || EdgeKind::from_number(kind).is_none() || reason.is_none() {
                return Err(Damaged("edge"));
            }
        }
        Ok(m)
    }

    /// [`Manifest::parse`] of owned bytes.
    ///
    /// # Errors
    /// As [`Manifest::parse`].
    pub fn from_vec(bytes: Vec<u8>) -> Result<Manifest, ManifestError> {
        Manifest::parse(Arc::new(bytes))
    }

    /// The manifest without units.
    pub fn empty() -> Manifest {
        ManifestBuilder::new().finish()
    }

    /// All the bytes, to be written somewhere else.
    pub fn as_bytes(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }

    /// SHA-256 of what is declared: the identity of a generation.
    pub fn digest(&self) -> [u8; 32] {
        let mut out = [0; 32];
        if let Some(d) = self.as_bytes().get(40..72) {
            out.copy_from_slice(d);
        }
        out
    }

    /// Whether the digest in the header is that of the bytes.
    pub fn verify_digest(&self) -> bool {
        let body = self.as_bytes().get(HEADER..).unwrap_or_default();
        let word = |at| u32_at(self.as_bytes(), at).unwrap_or_default();
        if word(8) == WITH_ORIGINS {
            return Sha256::digest(body).as_slice() == self.digest();
        }
        let end = (self.strings.0 - HEADER).saturating_add(word(36) as usize);
        let Some((declared, origins)) = body.split_at_checked(end) else { return false };
        let checksum = self.as_bytes().get(72..HEADER).unwrap_or_default();
        digest_of(declared, self.len()) == self.digest()
            && checksum == checksum_of(declared, origins, self.len())
    }

    /// Number of units.
    pub fn len(&self) -> usize {
        self.units as usize
    }

    /// Whether there is no unit.
    pub fn is_empty(&self) -> bool {
        self.units == 0
    }

    /// Every unit's number, in address order.
    pub fn ids(&self) -> impl Iterator<Item = UnitId> + use<> {
        (0..self.units).map(UnitId)
    }

    fn record(&self, id: UnitId) -> &[u8] {
        let at = HEADER + id.index() * UNIT;
        self.as_bytes().get(at..at + UNIT).unwrap_or(&[0; UNIT])
    }

    fn text(&self, start: usize, len: usize) -> &str {
        let from = self.strings.0 + start;
        let bytes = self.as_bytes().get(from..from + len).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    fn text_at(&self, record: &[u8], at: usize) -> &str {
        let word = |o| u32_at(record, o).unwrap_or_default() as usize;
        self.text(word(at), word(at + 4))
    }

    /// The unit's kind, without reading the rest.
    pub fn kind(&self, id: UnitId) -> Kind {
        self.record(id).first().and_then(|k| Kind::from_number(*k)).unwrap_or(Kind::Target)
    }

    /// The unit's name, without reading the rest.
    pub fn name(&self, id: UnitId) -> &str {
        self.text_at(self.record(id), 4)
    }

    /// The unit's flags, without reading the rest; see [`flags`].
    pub fn flags(&self, id: UnitId) -> u8 {
        self.record(id).get(1).copied().unwrap_or_default()
    }

    /// The unit's digest, without reading the rest.
    pub fn unit_digest(&self, id: UnitId) -> [u8; 16] {
        self.record(id).get(64..80).and_then(|d| d.try_into().ok()).unwrap_or_default()
    }

    /// The unit's claim, without reading the rest.
    pub fn claim(&self, id: UnitId) -> u64 {
        u64_at(self.record(id), 40).unwrap_or_default()
    }

    /// One unit. A number outside reads as an empty target.
    pub fn unit(&self, id: UnitId) -> UnitView<'_> {
        let r = self.record(id);
        UnitView {
            kind: self.kind(id),
            name: self.name(id),
            flags: self.flags(id),
            settle: r.get(2..4).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes).unwrap_or_default(),
            digest: self.unit_digest(id),
            claim: self.claim(id),
            layer: self.text_at(r, 48),
            origin: self.text_at(r, 56),
            description: self.text_at(r, 80),
        }
    }

    /// The unit's address.
    pub fn address(&self, id: UnitId) -> Address {
        Address::new(self.kind(id), self.name(id))
    }

    /// The unit with this address: a binary search.
    pub fn find(&self, kind: Kind, name: &str) -> Option<UnitId> {
        let id = UnitId(self.lower_bound(kind, name));
        (id.0 < self.units && self.kind(id) == kind && self.name(id) == name).then_some(id)
    }

    /// The units of a kind from this name on, in the order of their names.
    pub fn of_kind<'m>(&'m self, kind: Kind, from: &str) -> impl Iterator<Item = UnitId> + use<'m> {
        let ids = (self.lower_bound(kind, from)..self.units).map(UnitId);
        ids.take_while(move |id| self.kind(*id) == kind)
    }

    /// The number of the first unit that is not before this one.
    fn lower_bound(&self, kind: Kind, name: &str) -> u32 {
        let (mut low, mut high) = (0, self.units);
        while low < high {
            let middle = low + (high - low) / 2;
            let id = UnitId(middle);
            match (self.kind(id) as u8, self.name(id)) < (kind as u8, name) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    fn edges_at(&self, base: usize, record: &[u8], field: usize) -> impl Iterator<Item = Edge<'_>> {
        let start = u32_at(record, field).unwrap_or_default() as usize;
        let count = u32_at(record, field + 4).unwrap_or_default() as usize;
        (start..start + count).filter_map(move |i| {
            let at = base + i * EDGE;
            let e = self.as_bytes().get(at..at + EDGE)?;
            Some(Edge {
                unit: UnitId(u32_at(e, 0)?),
                kind: EdgeKind::from_number(*e.get(4)?)?,
                reason: self.text_at(e, 8),
            })
        })
    }

    /// What a unit depends on.
    pub fn deps(&self, id: UnitId) -> impl Iterator<Item = Edge<'_>> {
        self.edges_at(self.edges, self.record(id), 20)
    }

    /// Who depends on a unit.
    pub fn rdeps(&self, id: UnitId) -> impl Iterator<Item = Edge<'_>> {
        self.edges_at(self.rev, self.record(id), 28)
    }

    /// The unit's specification, decoded. `None` only for bytes that no compiler of this version wrote.
    pub fn spec(&self, id: UnitId) -> Option<Spec> {
        let r = self.record(id);
        let start = self.specs.0 + u32_at(r, 12)? as usize;
        let bytes = self.as_bytes().get(start..start + u32_at(r, 16)? as usize)?;
        postcard::from_bytes(bytes).ok()
    }

    /// The specification of a service.
    pub fn service(&self, id: UnitId) -> Option<Box<crate::kind::service::Service>> {
        match self.spec(id)? {
            Spec::Service(s) => Some(s),
            _ => None,
        }
    }
}

/// The digest of what comes after the header, up to the last string that is declared.
fn digest_of(declared: &[u8], units: usize) -> [u8; 32] {
    let mut hash = Sha256::new();
    let (records, rest) = declared.split_at(units.saturating_mul(UNIT).min(declared.len()));
    for record in records.chunks(UNIT) {
        hash.update(record.get(..ORIGIN.start).unwrap_or_default());
        hash.update(record.get(ORIGIN.end..).unwrap_or_default());
    }
    hash.update(rest);
    hash.finalize().into()
}

/// Of the origins, which the digest leaves out.
fn checksum_of(declared: &[u8], origins: &[u8], units: usize) -> [u8; 8] {
    let mut hash = Sha256::new();
    for record in declared.chunks(UNIT).take(units) {
        hash.update(record.get(ORIGIN).unwrap_or_default());
    }
    hash.update(origins);
    let mut out = [0; 8];
    out.copy_from_slice(hash.finalize().as_slice().get(..8).unwrap_or(&[0; 8]));
    out
}

mod builder;

pub use builder::{ManifestBuilder, NewUnit};

#[cfg(test)]
mod tests;
