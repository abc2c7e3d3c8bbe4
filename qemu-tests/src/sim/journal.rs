//! The store's side: the journal that ships, written to a disk that loses power at every point.
//!
//! A disk keeps what was synced, and of the rest any part: a tail that is cut off anywhere, or torn, or replaced by
//! what lay there before. A machine keeps any of the renames that were not synced. After each loss the journal is
//! replayed, what is not committed is undone, and the machine must be one of the two generations, never else.

use std::any::{type_name, type_name_of_val};
use std::collections::BTreeMap;

use cm_core::store::index::Index;
use cm_core::store::journal::{Encoder, MAGIC, recover, replay};
use cm_core::store::record::{Prior, Record};

use super::dice::Dice;

/// Names of what is driven here, for a test that it is what ships.
pub const DRIVEN: [fn() -> &'static str; 5] = [
    type_name::<Encoder>,
    type_name::<Index>,
    type_name::<Record>,
    || type_name_of_val(&replay),
    || type_name_of_val(&recover),
];

/// What things there are, and what they hold.
type Things = BTreeMap<String, String>;

/// A deliberate fault, to show that a loss can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// None.
    None,
    /// Things are renamed before the record of what they were is durable.
    RenameFirst,
    /// Recovery undoes nothing.
    NoUndo,
    /// Checksums are not looked at: a torn record counts.
    TrustTail,
}

/// Counts of what was tried.
#[derive(Debug, Clone, Copy, Default)]
pub struct Losses {
    /// Applies that were made.
    pub applies: u64,
    /// Power losses.
    pub losses: u64,
}

struct Disk {
    bytes: Vec<u8>,
    durable: usize,
    encoder: Encoder,
    things: Things,
    /// Renames since the last sync, with what was there before.
    unsynced: Vec<(String, Option<String>)>,
}

impl Disk {
    fn append(&mut self, record: &Record) -> Result<(), String> {
        self.encoder.encode(record, &mut self.bytes).map_err(|e| e.to_string())
    }

    fn sync(&mut self) {
        self.durable = self.bytes.len();
        self.unsynced.clear();
    }

    fn put(&mut self, thing: &str, value: Option<&String>) {
        let before = match value {
            Some(value) => self.things.insert(thing.to_owned(), value.clone()),
            None => self.things.remove(thing),
        };
        self.unsynced.push((thing.to_owned(), before));
    }

    /// What is there after the power came back.
    fn after_loss(&self, dice: &mut Dice) -> (Vec<u8>, Things) {
        let tail = self.bytes.len() - self.durable;
        let kept = self.durable + usize::try_from(dice.below(tail as u64 + 1)).unwrap_or(0);
        let mut bytes = self.bytes[..kept].to_vec();
        match dice.below(4) {
            // Blocks that were allocated and not written: zeros, or what lay there before.
            0 => bytes.resize(self.bytes.len() + 64, 0),
            1 => {
                let old: Vec<u8> = self.bytes.iter().copied().take(200).collect();
                bytes.extend(old);
            }
            2 if kept > self.durable => {
                let at =
                    self.durable + usize::try_from(dice.below((kept - self.durable) as u64)).unwrap_or(0);
                bytes[at] ^= 1 << dice.below(8);
            }
            _ => {}
        }
        let mut things = self.things.clone();
        for (thing, before) in self.unsynced.iter().rev() {
            if dice.chance(500) {
                match before {
                    Some(value) => things.insert(thing.clone(), value.clone()),
                    None => things.remove(thing),
                };
            }
        }
        (bytes, things)
    }
}

fn generation(dice: &mut Dice) -> Things {
    let mut things = Things::new();
    for number in 0..6 {
        if dice.chance(600) {
            things.insert(format!("/etc/{number}"), format!("v{}", dice.below(5)));
        }
    }
    things
}

/// Applies by lot with a loss at every step of each; what was lost of what.
///
/// # Errors
/// When a recovery gives anything but one of the two generations, or forgets one that was acknowledged.
pub fn losses(seed: u64, applies: u64, sabotage: Sabotage) -> Result<Losses, String> {
    let mut dice = Dice::of(&[seed, 77]);
    let mut disk = Disk {
        bytes: MAGIC.to_vec(),
        durable: MAGIC.len(),
        encoder: Encoder::new(),
        things: Things::new(),
        unsynced: Vec::new(),
    };
    let mut count = Losses::default();
    let mut generations: BTreeMap<u64, Things> = BTreeMap::from([(0, Things::new())]);
    let mut current = 0u64;
    for number in 1..=applies {
        let new = generation(&mut dice);
        generations.insert(number, new.clone());
        let old = generations.get(&current).cloned().unwrap_or_default();
        let mut check = |disk: &Disk, dice: &mut Dice, acknowledged: bool| {
            count.losses += 1;
            recovered(disk, dice, &generations, (current, number), acknowledged, sabotage)
        };
        let digest = [u8::try_from(number % 251).unwrap_or(0); 32];
        disk.append(&Record::Prepared { generation: number, digest, when: number, note: String::new() })?;
        check(&disk, &mut dice, false)?;
        disk.sync();
        disk.append(&Record::Switching { generation: number, transition: number })?;
        check(&disk, &mut dice, false)?;
        disk.sync();
        let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let changed: Vec<&String> = names.into_iter().filter(|n| old.get(*n) != new.get(*n)).collect();
        for part in changed.chunks(2) {
            for thing in part {
                let prior = old.get(*thing).map_or(Prior::Absent, |v| Prior::Text(v.clone()));
                let unit = format!("file:{thing}");
                disk.append(&Record::Undo {
                    transition: number,
                    unit,
                    thing: (*thing).clone(),
                    prior,
                    own: None,
                })?;
                check(&disk, &mut dice, false)?;
            }
            if sabotage != Sabotage::RenameFirst {
                disk.sync();
            }
            for thing in part {
                disk.put(thing, new.get(*thing));
                check(&disk, &mut dice, false)?;
            }
            disk.sync();
        }
        disk.append(&Record::Trial { generation: number })?;
        check(&disk, &mut dice, false)?;
        if dice.chance(250) {
            // It fails its trial: everything is put back, and only then is that said.
            for thing in changed.iter().rev() {
                disk.put(thing, old.get(*thing));
                check(&disk, &mut dice, false)?;
            }
            disk.sync();
            disk.append(&Record::Returned { generation: number, to: current })?;
            check(&disk, &mut dice, false)?;
            disk.sync();
        } else {
            disk.append(&Record::Committed { generation: number })?;
            check(&disk, &mut dice, false)?;
            disk.sync();
            check(&disk, &mut dice, true)?;
            current = number;
        }
        count.applies += 1;
    }
    Ok(count)
}

/// Recovers after a loss here, and looks at what came of it.
fn recovered(
    disk: &Disk,
    dice: &mut Dice,
    generations: &BTreeMap<u64, Things>,
    (old, new): (u64, u64),
    acknowledged: bool,
    sabotage: Sabotage,
) -> Result<(), String> {
    let (mut bytes, mut things) = disk.after_loss(dice);
    if sabotage == Sabotage::TrustTail {
        // As if every byte that was ever handed over had arrived.
        bytes = disk.bytes.clone();
        let mut encoder = replay(&bytes).encoder;
        encoder.encode(&Record::Committed { generation: new }, &mut bytes).map_err(|e| e.to_string())?;
    }
    let read = replay(&bytes);
    if read.valid_len < disk.durable {
        return Err(format!("a durable record was lost: {} of {} bytes hold", read.valid_len, disk.durable));
    }
    let recovery = recover(&read.records);
    let current = recovery.current.unwrap_or(0);
    if current != new && (acknowledged || current != old) {
        return Err(format!("generation {current} came back, and not {new} or {old}"));
    }
    let mut index = Index::default();
    for record in &read.records {
        index.apply(record);
    }
    if recovery.interrupted.is_some() && sabotage != Sabotage::NoUndo {
        for number in 0..6 {
            for undo in index.undo_to(&format!("file:/etc/{number}"), current, &index.first_touches(current))
            {
                match &undo.prior {
                    Prior::Text(value) => things.insert(undo.thing.clone(), value.clone()),
                    _ => things.remove(&undo.thing),
                };
            }
        }
    }
    let wanted = generations.get(&current).cloned().unwrap_or_default();
    if things != wanted {
        return Err(format!("generation {current} came back as {things:?} and not {wanted:?}"));
    }
    Ok(())
}
