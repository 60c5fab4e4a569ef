//! Asking an arbiter without waiting for it: threads that ask, and post what it said.
//!
//! Contract: every question is answered by exactly one [`Answer`] with its token, within its time
//! limit, or by none when the [`Asking`] is dropped. An arbiter that hangs (a dead NFS server)
//! holds up a thread and nobody else; what it says after the time limit is dropped, since a claim
//! may always be repeated. Questions are asked one after the other; of those that wait, each is
//! answered with an error when its time is up.

use super::{Arbiter, Claimed, Verdict};
use backends::wake::Post;
use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

/// Questions that may wait behind the one that is being asked.
const MAX_WAITING: usize = 16;

/// What an arbiter said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To a claim.
    Verdict(Verdict),
    /// To the question for the latest claim.
    Latest(Option<Claimed>),
    /// Nothing that counts: it cannot be reached, or is too slow. The text is for the user.
    Unreachable(String),
}

/// A reply with the token of its question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// As it was given to [`Asking`].
    pub token: u64,
    /// What the arbiter said.
    pub reply: Reply,
}

#[derive(Clone, Copy, Debug)]
enum Question {
    Claim { vm: u128, epoch: u64, claimant: u128 },
    Latest { vm: u128 },
}

enum Event {
    Ask(u64, Question),
    Said(Reply),
    Stop,
}

/// An arbiter that is asked by threads.
#[derive(Debug)]
pub struct Asking {
    events: Sender<Event>,
}

impl Asking {
    /// Asks `arbiter`; each question has `limit` to be answered, and its answer goes to `post`.
    ///
    /// # Errors
    /// The host has no thread to spare.
    pub fn spawn(
        arbiter: Box<dyn Arbiter>,
        limit: Duration,
        post: Post<Answer>,
    ) -> io::Result<Self> {
        let (events, inbox) = channel();
        let (questions, asked) = sync_channel(1);
        let said = events.clone();
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        // Not joined: it may hang as long as the arbiter does.
        thread("arbiter").spawn(move || ask(arbiter, &asked, &said))?;
        let desk = Desk { questions, post, limit, asking: None, waiting: VecDeque::new() };
        thread("arbiter-clock").spawn(move || desk.serve(&inbox))?;
        Ok(Self { events })
    }

    /// Claims `epoch` of `vm` for `claimant`.
    pub fn claim(&self, token: u64, vm: u128, epoch: u64, claimant: u128) {
        self.ask(token, Question::Claim { vm, epoch, claimant });
    }

    /// Asks for the latest claim of `vm`.
    pub fn latest(&self, token: u64, vm: u128) {
        self.ask(token, Question::Latest { vm });
    }

    fn ask(&self, token: u64, question: Question) {
        // The desk goes when nobody reads the mailbox any more.
        let _ = self.events.send(Event::Ask(token, question));
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let _ = self.events.send(Event::Stop);
    }
}

fn ask(mut arbiter: Box<dyn Arbiter>, questions: &Receiver<Question>, said: &Sender<Event>) {
    while let Ok(question) = questions.recv() {
        let reply = match question {
            Question::Claim { vm, epoch, claimant } => {
                arbiter.claim(vm, epoch, claimant).map(Reply::Verdict)
            }
            Question::Latest { vm } => arbiter.latest(vm).map(Reply::Latest),
        };
        let reply = reply.unwrap_or_else(|e| Reply::Unreachable(e.to_string()));
        if said.send(Event::Said(reply)).is_err() {
            return;
        }
    }
}

/// A question whose time runs.
#[derive(Debug)]
struct Open {
    token: u64,
    question: Question,
    deadline: Instant,
}

struct Desk {
    questions: SyncSender<Question>,
    post: Post<Answer>,
    limit: Duration,
    /// The question that the arbiter has, or `None` inside once its time was up.
    asking: Option<Option<Open>>,
    waiting: VecDeque<Open>,
}

impl Desk {
    fn serve(mut self, inbox: &Receiver<Event>) {
        loop {
            let event = match self.next_deadline() {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => inbox.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            let going_on = match event {
                Ok(Event::Ask(token, question)) => self.take(token, question),
                Ok(Event::Said(reply)) => self.said(reply),
                Err(RecvTimeoutError::Timeout) => self.expire(),
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => false,
            };
            if !going_on || !self.hand_over() {
                return;
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let asking = self.asking.iter().flatten();
        asking.chain(&self.waiting).map(|open| open.deadline).min()
    }

    fn take(&mut self, token: u64, question: Question) -> bool {
        if self.waiting.len() == MAX_WAITING {
            return self.answer(token, Reply::Unreachable("too many questions wait".into()));
        }
        let deadline = Instant::now() + self.limit;
        self.waiting.push_back(Open { token, question, deadline });
        true
    }

    fn said(&mut self, reply: Reply) -> bool {
        match self.asking.take().flatten() {
            Some(open) => self.answer(open.token, reply),
            None => true,
        }
    }

    fn expire(&mut self) -> bool {
        let now = Instant::now();
        let late = |open: &Open| open.deadline <= now;
        let mut tokens = Vec::new();
        if let Some(asking) = &mut self.asking
            && asking.as_ref().is_some_and(late)
        {
            tokens.extend(asking.take().map(|open| open.token));
        }
        tokens.extend(self.waiting.iter().filter(|open| late(open)).map(|open| open.token));
        self.waiting.retain(|open| !late(open));
        let text = format!("no answer for {} ms", self.limit.as_millis());
        tokens.into_iter().all(|token| self.answer(token, Reply::Unreachable(text.clone())))
    }

    /// Gives the arbiter the next question when it has none.
    fn hand_over(&mut self) -> bool {
        if self.asking.is_none()
            && let Some(open) = self.waiting.pop_front()
        {
            let question = open.question;
            self.asking = Some(Some(open));
            return self.questions.send(question).is_ok();
        }
        true
    }

    fn answer(&self, token: u64, reply: Reply) -> bool {
        self.post.send(Answer { token, reply }).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backends::wake::{Bell, mailbox};

    /// Answers a claim when it is let.
    struct Slow(Receiver<()>);

    impl Arbiter for Slow {
        fn claim(&mut self, _vm: u128, epoch: u64, _claimant: u128) -> io::Result<Verdict> {
            let _ = self.0.recv();
            if epoch == 0 { Err(io::Error::other("down")) } else { Ok(Verdict::Won) }
        }

        fn latest(&mut self, _vm: u128) -> io::Result<Option<Claimed>> {
            Ok(Some(Claimed { epoch: 3, owner: 4 }))
        }
    }

    fn wait_for(bell: &Bell, mail: &Receiver<Answer>) -> Answer {
        loop {
            bell.wait(Some(Duration::from_secs(20)));
            assert!(bell.take(), "an answer in time");
            if let Ok(answer) = mail.try_recv() {
                return answer;
            }
        }
    }

    #[test]
    fn each_question_is_answered_once_with_its_token() {
        let (go, gate) = channel();
        let bell = Bell::new();
        let (post, mail) = mailbox(64, bell.waker());
        let limit = Duration::from_secs(10);
        let asking = Asking::spawn(Box::new(Slow(gate)), limit, post).expect("threads");
        asking.claim(1, 9, 1, 5);
        asking.claim(2, 9, 0, 5);
        asking.latest(3, 9);
        assert!(mail.try_recv().is_err(), "nothing is answered before the arbiter is");
        go.send(()).expect("waits");
        let answer = wait_for(&bell, &mail);
        assert_eq!(answer, Answer { token: 1, reply: Reply::Verdict(Verdict::Won) });
        go.send(()).expect("waits");
        let answer = wait_for(&bell, &mail);
        assert_eq!(answer, Answer { token: 2, reply: Reply::Unreachable("down".into()) });
        let answer = mail.recv_timeout(limit).expect("the last");
        let latest = Some(Claimed { epoch: 3, owner: 4 });
        assert_eq!(answer, Answer { token: 3, reply: Reply::Latest(latest) });
    }

    #[test]
    fn a_silent_arbiter_holds_nobody_up_and_too_late_is_never() {
        let (go, gate) = channel();
        let bell = Bell::new();
        let (post, mail) = mailbox(64, bell.waker());
        let limit = Duration::from_millis(20);
        let asking = Asking::spawn(Box::new(Slow(gate)), limit, post).expect("threads");
        for token in 0..20 {
            asking.claim(token, 9, 1, 5);
        }
        let mut tokens: Vec<u64> = (0..20)
            .map(|_| mail.recv_timeout(Duration::from_secs(20)).expect("an answer"))
            .inspect(|answer| assert!(matches!(answer.reply, Reply::Unreachable(_)), "{answer:?}"))
            .map(|answer| answer.token)
            .collect();
        tokens.sort_unstable();
        assert_eq!(tokens, (0..20).collect::<Vec<_>>());
        // The verdict for token 0 comes now, and is dropped; the next question gets its own.
        go.send(()).expect("waits");
        asking.latest(20, 9);
        let answer = mail.recv_timeout(Duration::from_secs(20)).expect("an answer");
        assert_eq!(answer.token, 20);
        drop(asking);
        while mail.try_recv().is_ok() {}
    }
}
