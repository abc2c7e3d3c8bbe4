//! Events that wait for the engine. Each has a number, by which the live table holds it until it is done.

use std::collections::VecDeque;

use cm_core::engine::event::Event;

/// The queue, first come first served.
#[derive(Debug)]
pub struct Queue {
    events: VecDeque<Event>,
    /// Number of the first; 0 is no number.
    first: u64,
    /// Events below this number stand in the live table.
    written: u64,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { events: VecDeque::new(), first: 1, written: 1 }
    }
}

impl Queue {
    /// The queue of an earlier PID 1, as it stands in the table: events with consecutive numbers, of which those
    /// below `done` need no more.
    pub fn adopted(done: u64, events: impl IntoIterator<Item = (u64, Event)>) -> Queue {
        let mut queue = Queue { events: VecDeque::new(), first: done.max(1), written: done.max(1) };
        for (number, event) in events {
            if number == queue.end() {
                queue.events.push_back(event);
            }
        }
        queue.written = queue.end();
        queue
    }

    fn end(&self) -> u64 {
        self.first.saturating_add(u64::try_from(self.events.len()).unwrap_or(u64::MAX))
    }

    /// One more.
    pub fn push_back(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Some more.
    pub fn extend(&mut self, events: impl IntoIterator<Item = Event>) {
        self.events.extend(events);
    }

    /// These come before all that waits, which gets new numbers with them.
    pub fn put_first(&mut self, events: Vec<Event>) {
        self.first = self.end();
        let rest = std::mem::replace(&mut self.events, events.into());
        self.events.extend(rest);
    }

    /// Gives back the room of what many there were once.
    pub fn rest(&mut self) {
        self.events.shrink_to_fit();
    }

    /// The next one and its number.
    pub fn pop_front(&mut self) -> Option<(u64, Event)> {
        let event = self.events.pop_front()?;
        let number = self.first;
        self.first += 1;
        Some((number, event))
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Number of the next one that is taken.
    pub fn next(&self) -> u64 {
        self.first
    }

    /// Whether the live table has the event with this number.
    pub fn is_written(&self, number: u64) -> bool {
        number < self.written
    }

    /// Every event that waits, with its number.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Event)> {
        (self.first..).zip(&self.events)
    }

    /// The event with this number, if it waits.
    pub fn get(&self, number: u64) -> Option<&Event> {
        self.events.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// What the live table has not got yet; it is asked only to write it.
    pub fn take_unwritten(&mut self) -> impl Iterator<Item = (u64, &Event)> {
        let end = self.end();
        let from = std::mem::replace(&mut self.written, end);
        let skipped = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        (self.first.max(from)..).zip(self.events.iter().skip(skipped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(serial: u64) -> Event {
        Event::Spawned { serial }
    }

    fn unwritten(queue: &mut Queue) -> Vec<u64> {
        queue.take_unwritten().map(|(n, _)| n).collect()
    }

    #[test]
    fn each_event_is_written_once() {
        let mut queue = Queue::default();
        queue.extend([event(1), event(2)]);
        assert_eq!(unwritten(&mut queue), [1, 2]);
        queue.push_back(event(3));
        assert_eq!(queue.pop_front(), Some((1, event(1))));
        assert_eq!(unwritten(&mut queue), [3]);
        queue.push_back(event(4));
        queue.push_back(event(5));
        for n in 2..5 {
            assert_eq!(queue.pop_front(), Some((n, event(n))));
        }
        // 4 was taken before it was written: who takes it has to see to that.
        assert!(queue.is_written(3) && !queue.is_written(4));
        assert_eq!(unwritten(&mut queue), [5]);
        assert_eq!(unwritten(&mut queue), [] as [u64; 0]);
    }

    #[test]
    fn what_comes_first_gets_new_numbers_like_all_behind_it() {
        let mut queue = Queue::default();
        queue.extend([event(1), event(2), event(3)]);
        assert_eq!(unwritten(&mut queue), [1, 2, 3]);
        queue.pop_front();
        queue.put_first(vec![event(7), event(8)]);
        assert_eq!(unwritten(&mut queue), [4, 5, 6, 7]);
        let all: Vec<(u64, Event)> = queue.iter().map(|(n, e)| (n, e.clone())).collect();
        assert_eq!(all, [(4, event(7)), (5, event(8)), (6, event(2)), (7, event(3))]);
        let old = [(2, event(2)), (3, event(3))];
        let again = Queue::adopted(4, old.into_iter().chain(all));
        assert_eq!(again.get(6), Some(&event(2)));
        assert_eq!((again.next(), again.get(3), again.get(8)), (4, None, None));
    }
}
