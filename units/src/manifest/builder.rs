//! From units and edges to the bytes of a manifest.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{EdgeKind, HEADER, MAGIC, Manifest, ORIGIN, UNIT, VERSION, checksum_of, digest_of, u32_at};
use crate::address::{Address, Kind};
use crate::kind::Spec;

/// A unit on its way into a manifest.
#[derive(Debug, Clone)]
pub struct NewUnit {
    /// Its address; adding one twice keeps the last.
    pub address: Address,
    /// Its checked form.
    pub spec: Spec,
    /// See [`super::flags`].
    pub flags: u8,
    /// Milliseconds of quiet before a unit is looked at after an event.
    pub settle: u16,
    /// What it must not share with another unit, as text (`path:/etc/motd`); empty for none.
    pub claim: String,
    /// Name of its layer.
    pub layer: String,
    /// `file:line` of its declaration.
    pub origin: String,
    /// What a person wrote about it; empty for nothing. Not part of the unit's digest.
    pub description: String,
}

impl NewUnit {
    /// A unit with every option at its default.
    pub fn new(kind: Kind, name: impl Into<String>, spec: Spec) -> NewUnit {
        NewUnit {
            address: Address::new(kind, name),
            spec,
            flags: 0,
            settle: 50,
            claim: String::new(),
            layer: "main".to_owned(),
            origin: String::new(),
            description: String::new(),
        }
    }
}

/// Builds a manifest; the same units and edges in any order give the same bytes.
#[derive(Debug, Clone, Default)]
pub struct ManifestBuilder {
    units: Vec<NewUnit>,
    edges: std::collections::BTreeMap<(Address, Address, EdgeKind), String>,
}

impl ManifestBuilder {
    /// A builder without units.
    pub fn new() -> ManifestBuilder {
        ManifestBuilder::default()
    }

    /// Adds a unit.
    pub fn unit(&mut self, unit: NewUnit) -> &mut Self {
        self.units.push(unit);
        self
    }

    /// Adds an edge; `reason` is empty for one that a person wrote. An edge to or from a unit that is not
    /// there is dropped: the checker has reported it.
    pub fn edge(&mut self, from: &Address, to: &Address, kind: EdgeKind, reason: &str) -> &mut Self {
        self.edges.entry((from.clone(), to.clone(), kind)).or_insert_with(|| reason.to_owned());
        self
    }

    /// The finished manifest.
    pub fn finish(&self) -> Manifest {
        let bytes = self.encode();
        Manifest::from_vec(bytes).unwrap_or_else(|_| Manifest::parse_trusted_empty())
    }

    fn encode(&self) -> Vec<u8> {
        let (mut strings, mut origins) = (Strings::default(), Strings::default());
        // They come in order, mostly: a look at each, where a tree would look at forty for each.
        let mut units: Vec<&NewUnit> = self.units.iter().collect();
        units.sort_by(|a, b| a.address.cmp(&b.address));
        units.dedup_by(|later, kept| {
            let same = later.address == kept.address;
            if same {
                *kept = *later;
            }
            same
        });
        let number = |of: &Address| {
            let found = units.binary_search_by(|unit| unit.address.cmp(of));
            found.ok().and_then(|at| u32::try_from(at).ok())
        };
        let mut forward: Vec<(u32, u32, u8, (u32, u32))> = Vec::new();
        for ((from, to, kind), reason) in &self.edges {
            if let (Some(f), Some(t)) = (number(from), number(to)) {
                forward.push((f, t, *kind as u8, strings.add(reason)));
            }
        }
        forward.sort_unstable();
        let mut backward: Vec<_> = forward.iter().map(|&(f, t, k, r)| (t, f, k, r)).collect();
        backward.sort_unstable();
        let ranges = |list: &[(u32, u32, u8, (u32, u32))]| {
            let mut out = vec![(0u32, 0u32); units.len()];
            for (edge, position) in list.iter().zip(0u32..) {
                if let Some(slot) = out.get_mut(edge.0 as usize) {
                    if slot.1 == 0 {
                        slot.0 = position;
                    }
                    slot.1 += 1;
                }
            }
            out
        };
        let (deps, rdeps) = (ranges(&forward), ranges(&backward));

        let mut specs = Vec::new();
        let mut records = Vec::with_capacity(units.len() * UNIT);
        for ((unit, d), r) in units.iter().zip(deps).zip(rdeps) {
            let at = length(&specs);
            specs = postcard::to_extend(&unit.spec, specs).unwrap_or_default();
            let encoded = specs.get(at as usize..).unwrap_or_default();
            let mut hash = Sha256::new();
            hash.update([unit.address.kind as u8]);
            hash.update(unit.address.name.as_bytes());
            hash.update([0]);
            hash.update(encoded);
            let digest = hash.finalize();
            records.push(unit.address.kind as u8);
            records.push(unit.flags);
            records.extend_from_slice(&unit.settle.to_le_bytes());
            let name = strings.append(&unit.address.name);
            for (a, b) in [name, (at, length(encoded)), d, r] {
                records.extend_from_slice(&a.to_le_bytes());
                records.extend_from_slice(&b.to_le_bytes());
            }
            records.extend_from_slice(&[0; 4]);
            records.extend_from_slice(&claim_number(&unit.claim).to_le_bytes());
            for (a, b) in [strings.add(&unit.layer), origins.append(&unit.origin)] {
                records.extend_from_slice(&a.to_le_bytes());
                records.extend_from_slice(&b.to_le_bytes());
            }
            records.extend_from_slice(digest.as_slice().get(..16).unwrap_or(&[0; 16]));
            let (at, length) = strings.add(&unit.description);
            records.extend_from_slice(&at.to_le_bytes());
            records.extend_from_slice(&length.to_le_bytes());
        }
        let declared = length(strings.text.as_bytes());
        for record in records.chunks_mut(UNIT) {
            if let Some(slot) = record.get_mut(ORIGIN.start..ORIGIN.start + 4)
                && let Some(at) = u32_at(slot, 0)
            {
                slot.copy_from_slice(&at.saturating_add(declared).to_le_bytes());
            }
        }
        let mut body = records;
        for (_, unit, kind, reason) in forward.iter().chain(&backward) {
            body.extend_from_slice(&unit.to_le_bytes());
            body.extend_from_slice(&[*kind, 0, 0, 0]);
            body.extend_from_slice(&reason.0.to_le_bytes());
            body.extend_from_slice(&reason.1.to_le_bytes());
        }
        let specs_at = HEADER + body.len();
        body.extend_from_slice(&specs);
        let strings_at = HEADER + body.len();
        body.extend_from_slice(strings.text.as_bytes());
        let digest = digest_of(&body, units.len());
        let checksum = checksum_of(&body, origins.text.as_bytes(), units.len());
        body.extend_from_slice(origins.text.as_bytes());

        let mut out = Vec::with_capacity(HEADER + body.len());
        out.extend_from_slice(MAGIC);
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        out.extend_from_slice(&VERSION.to_le_bytes());
        let text = strings.text.len() + origins.text.len();
        for n in [units.len(), forward.len(), specs_at, specs.len(), strings_at, text, strings.text.len()] {
            out.extend_from_slice(&number(n));
        }
        out.extend_from_slice(&digest);
        out.extend_from_slice(&checksum);
        out.resize(HEADER, 0);
        out.extend_from_slice(&body);
        out
    }
}

impl Manifest {
    /// What [`ManifestBuilder::finish`] falls back to when a manifest outgrew its limits; its caller checks
    /// sizes before.
    fn parse_trusted_empty() -> Manifest {
        let bytes = ManifestBuilder::new().encode();
        let end = bytes.len();
        Manifest {
            bytes: Arc::new(bytes),
            units: 0,
            edges: HEADER,
            rev: HEADER,
            specs: (HEADER, 0),
            strings: (end, 0),
        }
    }
}

/// A claim as a number: never 0 for a text that is not empty.
fn claim_number(text: &str) -> u64 {
    if text.is_empty() {
        return 0;
    }
    let digest = Sha256::digest(text.as_bytes());
    let mut out = [0; 8];
    out.copy_from_slice(digest.as_slice().get(..8).unwrap_or(&[0; 8]));
    u64::from_le_bytes(out) | 1
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// The string table: equal strings are stored once, but for those of which there is hardly a second.
#[derive(Default)]
struct Strings {
    text: String,
    known: std::collections::HashMap<String, (u32, u32)>,
    /// Where the last one stands: the next is mostly the same.
    last: (u32, u32),
}

impl Strings {
    fn add(&mut self, s: &str) -> (u32, u32) {
        if s.is_empty() {
            return (0, 0);
        }
        let end = |(at, length): (u32, u32)| at as usize..at as usize + length as usize;
        if self.text.get(end(self.last)) == Some(s) {
            return self.last;
        }
        self.last = match self.known.get(s) {
            Some(at) => *at,
            None => {
                let at = self.append(s);
                self.known.insert(s.to_owned(), at);
                at
            }
        };
        self.last
    }

    fn append(&mut self, s: &str) -> (u32, u32) {
        if s.is_empty() {
            return (0, 0);
        }
        let at = (length(self.text.as_bytes()), length(s.as_bytes()));
        self.text.push_str(s);
        at
    }
}
