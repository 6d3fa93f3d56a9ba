//! The seam between the data path and whoever stores objects: a queue of requests that the caller
//! pulls, carries out in whatever way it likes, and answers. The data path never calls out.
//!
//! Guarantees: a request is handed out once; a thread that waits for an answer wakes when it is
//! answered, dropped unanswered, or the job is cancelled; puts are handed out in the order in
//! which they were made, and at most `puts_max` of them are unanswered at a time, so that the
//! memory they hold is bounded.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::buffers::{Buffer, Buffers};
use crate::error::{Error, ErrorKind, Result};

/// The longest range that is asked for, in bytes. The filter of a run of a billion chunks is as long; what
/// asks for more was misled.
pub const GET_BYTES_MAX: u64 = 1 << 30;

/// What the caller is asked to do.
#[derive(Debug)]
pub enum Work {
    /// Read `length` bytes at `offset` of the object, or all of it when `length` is `None`.
    Get {
        /// Object key.
        key: String,
        /// First byte.
        offset: u64,
        /// Number of bytes; `None` for the whole object.
        length: Option<u64>,
    },
    /// Create the object with these bytes; it must be durable before the answer.
    Put {
        /// Object key.
        key: String,
        /// The whole object.
        data: Vec<u8>,
    },
    /// Output of the job in order: rows of JSON, or raw bytes of a file.
    Output {
        /// What kind of output it is.
        kind: &'static str,
        /// The bytes.
        data: Vec<u8>,
    },
}

/// One request under way. Dropping it unanswered fails it.
pub struct Request {
    /// What to do.
    pub work: Work,
    answer: Option<Arc<Answer>>,
    broker: Arc<Broker>,
}

/// What an answer brings.
#[derive(Debug)]
pub enum Bytes {
    /// A buffer of its own.
    Own(Vec<u8>),
    /// One of the broker's.
    Lent(Buffer),
}

#[derive(Default)]
struct Answer {
    state: Mutex<Option<Result<Bytes>>>,
    ready: Condvar,
    on_put: Mutex<Option<OnPut>>,
    /// Which put this is the answer to, in the order in which they were made.
    put: u64,
}

#[derive(Default)]
struct Queue {
    requests: VecDeque<(Work, Arc<Answer>)>,
    /// Puts that are not answered yet, with their bytes, and the number of the next.
    puts_open: BTreeMap<u64, usize>,
    /// Bytes of the largest put so far.
    put_bytes_max: usize,
    put_next: u64,
    put_error: Option<Error>,
    cancelled: Option<Error>,
    closed: bool,
}

impl Queue {
    /// Whether a put of so many bytes has to wait: for memory, there are as many bytes on their way as `puts_max`
    /// of the largest. What is small need not wait for a large one to be answered.
    fn is_full(&self, puts_max: usize, bytes: usize) -> bool {
        let open: usize = self.puts_open.values().sum();
        let most = puts_max.saturating_mul(self.put_bytes_max.max(bytes));
        let is_too_much = open.saturating_add(bytes) > most;
        self.puts_open.len() >= 2 * puts_max || (is_too_much && !self.puts_open.is_empty())
    }
}

/// The queue.
pub struct Broker {
    queue: Mutex<Queue>,
    changed: Condvar,
    puts_max: usize,
    /// What ranges are read into and opened in.
    pub buffers: Arc<Buffers>,
}

/// Locks, going on after a panic elsewhere: every state kept here is valid between statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a put calls when it has been answered.
pub type OnPut = Box<dyn FnOnce(&Result<()>) + Send>;

impl Broker {
    /// A queue that lets at most `puts_max` puts be unanswered, or twice as many that together have no more bytes.
    pub fn new(puts_max: usize) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            changed: Condvar::new(),
            puts_max: puts_max.max(1),
            buffers: Arc::default(),
        })
    }

    /// The next request; blocks until there is one. `None` when the job has ended.
    pub fn next_request(self: &Arc<Self>) -> Option<Request> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some((work, answer)) = queue.requests.pop_front() {
                return Some(Request { work, answer: Some(answer), broker: Arc::clone(self) });
            }
            if queue.closed {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the queue: what is queued fails, who waits for a request gets `None`.
    pub fn close(&self) {
        let left = {
            let mut queue = lock(&self.queue);
            queue.closed = true;
            std::mem::take(&mut queue.requests)
        };
        for (_, answer) in left {
            answer.set(Err(Error::new(ErrorKind::Cancelled, "the job has ended")));
        }
        self.changed.notify_all();
    }

    /// Makes every present and future call fail with `error`.
    pub fn cancel(&self, error: &Error) {
        let left = {
            let mut queue = lock(&self.queue);
            queue.cancelled.get_or_insert(error.clone());
            std::mem::take(&mut queue.requests)
        };
        for (work, answer) in left {
            self.settle(&work, &answer, Err(error.clone()));
        }
        self.changed.notify_all();
    }

    /// Blocks until the job is cancelled or has ended.
    pub fn wait_cancelled(&self) {
        let mut queue = lock(&self.queue);
        while queue.cancelled.is_none() && !queue.closed {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Fails when the job was cancelled or a put has failed.
    pub fn check(&self) -> Result<()> {
        let queue = lock(&self.queue);
        queue.cancelled.clone().or_else(|| queue.put_error.clone()).map_or(Ok(()), Err)
    }

    fn send(&self, work: Work) -> Result<Arc<Answer>> {
        let answer = Arc::new(Answer::default());
        {
            let mut queue = lock(&self.queue);
            if let Some(error) = &queue.cancelled {
                return Err(error.clone());
            }
            if queue.closed {
                return Err(Error::internal("a request after the end of the job"));
            }
            queue.requests.push_back((work, Arc::clone(&answer)));
        }
        self.changed.notify_all();
        Ok(answer)
    }

    /// Reads a range of an object.
    pub fn get(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
        let data = self.get_later(key, offset, Some(length))?.wait()?;
        if data.len() as u64 == length {
            Ok(data.into_vec())
        } else {
            Err(Error::damaged("the object is shorter than it should be").at(key).offset(offset))
        }
    }

    /// Reads a whole object.
    pub fn get_all(&self, key: &str) -> Result<Vec<u8>> {
        self.get_later(key, 0, None)?.wait().map(Bytes::into_vec)
    }

    /// Starts reading; the answer is waited for on the returned value. Lengths are not checked.
    pub fn get_later(&self, key: &str, offset: u64, length: Option<u64>) -> Result<Pending> {
        if length.is_some_and(|length| length > GET_BYTES_MAX) {
            let what = "a range longer than any part of an object";
            return Err(Error::damaged(what).at(key.to_owned()).offset(offset));
        }
        self.send(Work::Get { key: key.to_owned(), offset, length }).map(Pending)
    }

    /// Hands over output and waits until it was taken.
    pub fn output(&self, kind: &'static str, data: Vec<u8>) -> Result<()> {
        Pending(self.send(Work::Output { kind, data })?).wait().map(drop)
    }

    /// Hands over an object to store; waits while too many puts are unanswered, not for the answer.
    pub fn put(&self, key: String, data: Vec<u8>, on_put: OnPut) -> Result<()> {
        {
            let mut queue = lock(&self.queue);
            while queue.is_full(self.puts_max, data.len())
                && queue.cancelled.is_none()
                && queue.put_error.is_none()
            {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            if let Some(error) = queue.cancelled.clone().or_else(|| queue.put_error.clone()) {
                return Err(error);
            }
            if queue.closed {
                return Err(Error::internal("a put after the end of the job"));
            }
            let put = queue.put_next;
            queue.put_next += 1;
            queue.puts_open.insert(put, data.len());
            queue.put_bytes_max = queue.put_bytes_max.max(data.len());
            let on_put = Mutex::new(Some(on_put));
            let answer = Arc::new(Answer { on_put, put, ..Answer::default() });
            queue.requests.push_back((Work::Put { key, data }, answer));
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until every put made before this call has been answered; fails if any failed.
    ///
    /// Not for those that others make meanwhile: where the store is the slowest part, there is always one.
    pub fn wait_puts(&self) -> Result<()> {
        let mut queue = lock(&self.queue);
        let mark = queue.put_next;
        while queue.puts_open.first_key_value().is_some_and(|(put, _)| *put < mark)
            && queue.cancelled.is_none()
        {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.cancelled.clone().or_else(|| queue.put_error.clone()).map_or(Ok(()), Err)
    }
}

impl Broker {
    fn settle(&self, work: &Work, answer: &Answer, result: Result<Bytes>) {
        if matches!(work, Work::Put { .. }) {
            let outcome = result.map(drop);
            // The callback files the pack before the put counts as answered, so that whoever
            // waits for all puts sees every pack.
            if let Some(on_put) = lock(&answer.on_put).take() {
                on_put(&outcome);
            }
            let mut queue = lock(&self.queue);
            queue.puts_open.remove(&answer.put);
            if let Err(error) = outcome {
                queue.put_error.get_or_insert(error);
            }
            drop(queue);
            self.changed.notify_all();
        } else {
            answer.set(result);
        }
    }
}

impl Bytes {
    /// Drops all but the first `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        match self {
            Self::Own(bytes) => bytes.truncate(count),
            Self::Lent(buffer) => buffer.narrow(0..count),
        }
    }

    /// The bytes in a buffer of their own.
    pub fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Own(bytes) => bytes,
            Self::Lent(buffer) => buffer.to_vec(),
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Lent(buffer) => buffer,
        }
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Lent(buffer) => buffer,
        }
    }
}

impl Default for Bytes {
    fn default() -> Self {
        Self::Own(Vec::new())
    }
}

impl Answer {
    fn set(&self, result: Result<Bytes>) {
        *lock(&self.state) = Some(result);
        self.ready.notify_all();
    }
}

/// A read under way.
pub struct Pending(Arc<Answer>);

impl Pending {
    /// Blocks until the bytes are there.
    pub fn wait(self) -> Result<Bytes> {
        let mut state = lock(&self.0.state);
        loop {
            if let Some(result) = state.take() {
                return result;
            }
            state = self.0.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Request {
    /// Takes the bytes of a put or an output out of the request, for whoever hands them on.
    pub fn take_data(&mut self) -> Vec<u8> {
        match &mut self.work {
            Work::Put { data, .. } | Work::Output { data, .. } => std::mem::take(data),
            Work::Get { .. } => Vec::new(),
        }
    }

    /// A buffer for the bytes of a ranged read, to answer with what was read of them. Fails when there
    /// is no memory.
    pub fn buffer(&self) -> Result<Option<Buffer>> {
        let Work::Get { length: Some(length), .. } = &self.work else {
            return Ok(None);
        };
        let length = usize::try_from(*length).map_err(|_| Error::internal("a range too long"))?;
        self.broker.buffers.take(length).map(Some)
    }

    /// Answers with the bytes read, or with nothing for a put or output.
    pub fn complete(self, data: Vec<u8>) {
        self.complete_with(Bytes::Own(data));
    }

    /// The same, with bytes of either kind.
    pub fn complete_with(mut self, data: Bytes) {
        if let Some(answer) = self.answer.take() {
            self.broker.settle(&self.work, &answer, Ok(data));
        }
    }

    /// Answers with an error.
    pub fn fail(mut self, error: Error) {
        let error = match &self.work {
            Work::Get { key, .. } | Work::Put { key, .. } => error.at(key.clone()),
            Work::Output { .. } => error,
        };
        if let Some(answer) = self.answer.take() {
            self.broker.settle(&self.work, &answer, Err(error));
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            let error = Error::new(ErrorKind::Storage, "the request was dropped unanswered");
            self.broker.settle(&self.work, &answer, Err(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn gets_and_puts_are_answered_and_puts_are_bounded() {
        let broker = Broker::new(2);
        let stored = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let server = Arc::clone(&broker);
            let peak = Arc::clone(&most);
            scope.spawn(move || {
                while let Some(request) = server.next_request() {
                    peak.fetch_max(lock(&server.queue).puts_open.len(), Ordering::SeqCst);
                    match &request.work {
                        Work::Get { length, .. } => {
                            let size = usize::try_from(length.unwrap_or(3)).unwrap();
                            request.complete(vec![7; size]);
                        }
                        _ => request.complete(Vec::new()),
                    }
                }
            });
            assert_eq!(broker.get("a", 0, 5).unwrap(), vec![7; 5]);
            assert_eq!(broker.get_all("a").unwrap(), vec![7; 3]);
            for _ in 0..50 {
                let stored = Arc::clone(&stored);
                let on_put: OnPut = Box::new(move |result| {
                    assert!(result.is_ok());
                    stored.fetch_add(1, Ordering::SeqCst);
                });
                broker.put("p".into(), vec![0; 10], on_put).unwrap();
            }
            broker.wait_puts().unwrap();
            assert_eq!(stored.load(Ordering::SeqCst), 50);
            broker.close();
        });
        assert!(most.load(Ordering::SeqCst) <= 2);
    }

    #[test]
    fn small_puts_do_not_wait_for_large_ones() {
        let broker = Broker::new(2);
        let put = |bytes: usize| broker.put("p".into(), vec![0; bytes], Box::new(|_| ()));
        // None of these is answered, so that one too many would wait for ever.
        put(100).unwrap();
        put(60).unwrap();
        put(30).unwrap();
        let is_full = |bytes| lock(&broker.queue).is_full(2, bytes);
        assert!(is_full(11) && !is_full(10), "200 bytes are the most");
        put(10).unwrap();
        assert!(is_full(0), "no more than four, however small");
    }

    #[test]
    fn waiting_for_puts_ends_although_others_go_on() {
        let broker = Broker::new(2);
        let (made, is_enough) = (AtomicUsize::new(0), std::sync::atomic::AtomicBool::new(false));
        let put = || broker.put("p".into(), vec![0; 10], Box::new(|_| ()));
        put().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut held: Option<Request> = None;
                // There is always one that is not answered.
                while let Some(request) = broker.next_request() {
                    if let Some(before) = held.replace(request) {
                        before.complete(Vec::new());
                    }
                }
            });
            scope.spawn(|| {
                while !is_enough.load(Ordering::SeqCst) && made.load(Ordering::SeqCst) < 100_000 {
                    if put().is_err() {
                        break;
                    }
                    made.fetch_add(1, Ordering::SeqCst);
                }
            });
            broker.wait_puts().unwrap();
            is_enough.store(true, Ordering::SeqCst);
            assert!(made.load(Ordering::SeqCst) < 100_000);
            broker.close();
        });
    }

    #[test]
    fn a_short_answer_is_damage_and_a_dropped_request_fails() {
        let broker = Broker::new(1);
        let pending = broker.get_later("k", 0, Some(4)).unwrap();
        drop(broker.next_request().unwrap());
        assert_eq!(pending.wait().unwrap_err().kind, ErrorKind::Storage);
        let error = broker.get("k", 7, GET_BYTES_MAX + 1).unwrap_err();
        assert_eq!((error.kind, error.offset), (ErrorKind::Damaged, Some(7)));
        std::thread::scope(|scope| {
            scope.spawn(|| broker.next_request().unwrap().complete(vec![1]));
            assert_eq!(broker.get("k", 0, 4).unwrap_err().kind, ErrorKind::Damaged);
        });
    }

    #[test]
    fn a_failed_put_fails_the_next_and_cancel_wakes_everybody() {
        let broker = Broker::new(1);
        broker.put("p".into(), vec![], Box::new(|r| assert!(r.is_err()))).unwrap();
        broker.next_request().unwrap().fail(Error::new(ErrorKind::Storage, "full"));
        assert_eq!(broker.wait_puts().unwrap_err().key.as_deref(), Some("p"));
        assert!(broker.put("q".into(), vec![], Box::new(|_| ())).is_err());
        let broker = Broker::new(1);
        broker.put("p".into(), vec![], Box::new(|r| assert!(r.is_err()))).unwrap();
        let pending = broker.get_later("k", 0, None).unwrap();
        broker.cancel(&Error::new(ErrorKind::Cancelled, "stop"));
        assert_eq!(pending.wait().unwrap_err().kind, ErrorKind::Cancelled);
        assert!(broker.wait_puts().is_err());
    }
}
