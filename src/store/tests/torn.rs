//! Journals that a power cut has torn, and journals that are damaged.

use std::ops::Range;
use std::path::PathBuf;

use super::*;
use crate::store::journal::Journal;

const SECTOR: u64 = 512;

/// A store that was closed, or cut off, with what it should have.
struct Written {
    folder: tempfile::TempDir,
    session: SessionNo,
    /// The number of the last delivery of each batch.
    batches: Vec<u64>,
    /// Where in the journal each of these batches begins and ends.
    places: Vec<Range<u64>>,
}

impl Written {
    /// Three batches that were synced, and as many more that were not.
    fn new(durability: Durability) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let session = begin(&open(folder.path()).0, "client");
        let mut written = Self { folder, session, batches: Vec::new(), places: Vec::new() };
        written.write(Durability::Fsync);
        written.write(durability);
        written
    }

    fn write(&mut self, durability: Durability) {
        let settings = Settings { durability, ..settings(self.folder.path()) };
        let now = (Instant::now(), SystemTime::now());
        let (store, _) = Store::open(&settings, now).unwrap();
        for _ in 0..3 {
            let from = self.journal_end();
            let first = self.batches.last().map_or(1, |last| last + 1);
            let payload = vec![b'x'; 600];
            commit(
                &store,
                (first..first + 3)
                    .map(|at| Change::Enqueue(self.session, delivery(at, &message("a", &payload)))),
            );
            self.batches.push(first + 2);
            self.places.push(from..self.journal_end());
        }
        drop(store);
        // As if the power had been cut: nobody has closed it.
        std::fs::remove_file(self.folder.path().join("closed")).unwrap();
    }

    fn journal(&self) -> PathBuf {
        Journal::list(&self.folder.path().join("data")).unwrap().pop().unwrap().1
    }

    fn token(folder: &Path) -> [u8; 16] {
        let text = std::fs::read(folder.join("data/identity")).unwrap();
        hex::decode(text).unwrap().try_into().unwrap()
    }

    fn journal_end(&self) -> u64 {
        let token = Self::token(self.folder.path());
        Journal::read(0, self.journal(), &token).unwrap().whole_to
    }

    /// A copy of the store with another journal.
    fn with_journal(&self, bytes: &[u8]) -> tempfile::TempDir {
        let image = crash_image(self.folder.path());
        let relative = self.journal();
        let relative = relative.strip_prefix(self.folder.path()).unwrap();
        std::fs::write(image.path().join(relative), bytes).unwrap();
        image
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.journal()).unwrap()
    }

    /// All of the first `synced` batches is there, and of the rest whole batches, in order.
    fn check(&self, image: &Path, synced: usize) {
        let (store, recovered) = open(image);
        let session = recovered.sessions.into_iter().next().unwrap();
        let waiting: Vec<u64> = session.waiting.iter().map(|it| it.seq.0.get()).collect();
        let last = waiting.last().copied().unwrap();
        assert_eq!(waiting, (1..=last).collect::<Vec<_>>());
        assert!(last >= self.batches[synced - 1] && self.batches.contains(&last), "{last}");
        assert_eq!(numbers(&store, self.session), waiting);
        // It goes on, and what comes then is there again.
        commit(&store, [enqueue(self.session, last + 1)]);
        drop(store);
        let (store, _) = open(image);
        assert_eq!(numbers(&store, self.session).last(), Some(&(last + 1)));
    }
}

/// Numbers that are the same every time (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// The parts of a range that lie in one sector each.
fn sectors(range: Range<u64>) -> Vec<Range<usize>> {
    let cuts = range.start / SECTOR..=(range.end - 1) / SECTOR;
    cuts.map(|sector| {
        let (from, to) = (sector * SECTOR, (sector + 1) * SECTOR);
        from.max(range.start) as usize..to.min(range.end) as usize
    })
    .collect()
}

#[test]
fn a_tail_cut_at_any_sector_is_cut_off() {
    for durability in [Durability::Fsync, Durability::Os] {
        let written = Written::new(durability);
        let bytes = written.bytes();
        // Of what was synced batch by batch only the last may be torn.
        let synced = if durability == Durability::Fsync { 5 } else { 3 };
        let torn = written.places[synced].start..written.places[5].end;
        for sector in sectors(torn.clone()) {
            for keep in [sector.start, sector.end] {
                written.check(written.with_journal(&bytes[..keep]).path(), synced);
            }
            let mut zeroed = bytes.clone();
            zeroed[sector.start..].fill(0);
            written.check(written.with_journal(&zeroed).path(), synced);
        }
        for keep in [torn.start, torn.start + 1, torn.end - 1, torn.end] {
            let keep = usize::try_from(keep).unwrap();
            written.check(written.with_journal(&bytes[..keep]).path(), synced);
        }
    }
}

#[test]
fn any_part_of_what_was_not_synced_may_be_missing() {
    for durability in [Durability::Fsync, Durability::Os] {
        let written = Written::new(durability);
        let synced = if durability == Durability::Fsync { 5 } else { 3 };
        let torn = written.places[synced].start..written.places[5].end;
        for seed in 0..24 {
            let mut dice = Dice(seed);
            let mut bytes = written.bytes();
            for sector in sectors(torn.clone()) {
                match dice.roll(4) {
                    0 => bytes[sector].fill(0),
                    1 => bytes[sector].fill_with(|| dice.roll(256) as u8),
                    // Part of a sector is no more than drives promise; the rest must not rely
                    // on it.
                    2 if dice.roll(4) == 0 => {
                        let at = dice.roll(sector.len() as u64) as usize;
                        bytes[sector.start + at..sector.end].fill(0);
                    }
                    _ => {}
                }
            }
            if dice.roll(3) == 0 {
                bytes.truncate(bytes.len() - dice.roll(torn.end - torn.start) as usize);
            }
            // What was set aside in advance stands behind it.
            if dice.roll(3) == 0 {
                bytes.resize(bytes.len() + 100_000, 0);
            }
            written.check(written.with_journal(&bytes).path(), synced);
        }
    }
}

#[test]
fn a_torn_tail_is_set_aside() {
    let written = Written::new(Durability::Fsync);
    let mut bytes = written.bytes();
    let last = &written.places[5];
    let (from, to) = (last.start as usize, last.end as usize);
    bytes[from + 100] ^= 1;
    let image = written.with_journal(&bytes);
    written.check(image.path(), 5);
    let name = written.journal().file_name().unwrap().to_string_lossy().into_owned();
    let aside = image.path().join("set-aside").join(format!("{name}-{from}"));
    assert_eq!(std::fs::read(aside).unwrap(), bytes[from..to]);
}

#[test]
fn damage_before_what_was_synced_later_is_refused_and_nothing_touched() {
    let written = Written::new(Durability::Fsync);
    let good = written.bytes();
    for (batch, place) in written.places[..5].iter().enumerate() {
        for at in [place.start, place.start + 1, place.start + 700, place.end - 1] {
            let mut bytes = good.clone();
            bytes[at as usize] ^= 0x55;
            let image = written.with_journal(&bytes);
            let error = try_open(image.path()).unwrap_err();
            let StoreError::Damaged { file, what } = &error else { panic!("{error}") };
            assert!(file.extension().is_some_and(|it| it == "jnl"), "{error}");
            // The last batch but one may be one that was on its way when the last was written:
            // what the last says was synced decides.
            assert!(what.contains(&format!("byte {}", place.start)), "{batch}: {error}");
            assert!(what.contains("--accept-loss"), "{error}");
            assert_eq!(std::fs::read(file).unwrap(), bytes);
            assert!(!image.path().join("set-aside").exists());
        }
    }
}

#[test]
fn behind_damage_that_is_accepted_the_rest_is_served() {
    let written = Written::new(Durability::Fsync);
    let mut bytes = written.bytes();
    bytes[written.places[1].start as usize + 700] ^= 1;
    let image = written.with_journal(&bytes);
    let (store, _) = open_lossy(image.path());
    let rest: Vec<u64> = (1..=3).chain(7..=18).collect();
    assert_eq!(numbers(&store, written.session), rest);
    assert_eq!(std::fs::read_dir(image.path().join("set-aside")).unwrap().count(), 1);
    drop(store);
    // What was accepted once is no damage any more.
    let (store, _) = open(image.path());
    assert_eq!(numbers(&store, written.session), rest);
}

#[test]
fn a_batch_within_a_payload_is_none() {
    let written = Written::new(Durability::Fsync);
    let foreign = Written::new(Durability::Fsync).bytes();
    let (store, _) = open(written.folder.path());
    let from = written.journal_end();
    commit(&store, [Change::Enqueue(written.session, delivery(19, &message("a", &foreign)))]);
    drop(store);
    std::fs::remove_file(written.folder.path().join("closed")).unwrap();
    let mut bytes = written.bytes();
    bytes[from as usize] ^= 1;
    written.check(written.with_journal(&bytes).path(), 6);
}
