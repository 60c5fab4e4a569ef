//! A replica without a machine: it waits for a live one, and takes its state.
//!
//! Contract: nothing that happens here can make it live; what it was given before
//! [`Message::Commit`] is worth nothing.

use super::backup::Backup;
use super::{Context, Role, Turn, leave};
use crate::event::{Action, Event, Halt, Notice, Record, RecordRole};
use crate::message::{Ack, Bye, Hello, Message, Standing};
use crate::types::{Conn, HostNs};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

/// A replica without a machine.
#[derive(Debug, Default)]
pub(super) struct Spare {
    /// Live replicas that have not welcomed us yet.
    hosts: Vec<Conn>,
    /// The one whose state is coming.
    source: Option<Source>,
}

#[derive(Debug)]
struct Source {
    conn: Conn,
    heard: HostNs,
    said: HostNs,
}

impl Spare {
    pub(super) fn handle(&mut self, context: &mut Context, event: Event) -> Turn {
        match event {
            Event::Received(conn, message) => self.received(context, conn, message),
            Event::Disconnected(conn) => {
                self.hosts.retain(|host| *host != conn);
                if self.is_source(conn) {
                    self.failed(context, "the connection is gone".into());
                }
                Turn::Stay
            }
            Event::Transfer(bytes) => {
                if let Some(source) = &mut self.source {
                    source.said = context.now;
                    context.send(source.conn, Message::Transfer(bytes));
                }
                Turn::Stay
            }
            Event::TransferFailed(why) => {
                if let Some(source) = self.source.take() {
                    leave(context, source.conn, Bye::Failed);
                    context.tell(Notice::JoiningFailed(why));
                }
                Turn::Stay
            }
            Event::Timer => self.tick(context),
            Event::Detach | Event::Ended => {
                if let Some(source) = self.source.take() {
                    leave(context, source.conn, Bye::Detached);
                }
                Turn::Halt(Halt::Detached)
            }
            _ => Turn::Stay,
        }
    }

    /// A replica says what it does.
    pub(super) fn introduced(&mut self, context: &mut Context, conn: Conn, hello: &Hello) {
        match hello.standing {
            Standing::Live if self.hosts.len() < super::STRANGERS => self.hosts.push(conn),
            Standing::Live | Standing::Leaving => context.act(Action::Close(conn)),
            Standing::Spare => {
                context.refuse(conn, "the other side is a backup without a machine, too");
            }
            Standing::Backup => context.refuse(conn, "the other side is a backup, too"),
        }
    }

    fn is_source(&self, conn: Conn) -> bool {
        self.source.as_ref().is_some_and(|source| source.conn == conn)
    }

    fn received(&mut self, context: &mut Context, conn: Conn, message: Message) -> Turn {
        if self.hosts.contains(&conn) {
            self.host_says(context, conn, message);
            return Turn::Stay;
        }
        let Some(source) = self.source.as_mut().filter(|source| source.conn == conn) else {
            return Turn::Stay;
        };
        source.heard = context.now;
        match message {
            Message::Transfer(bytes) => context.act(Action::Install(bytes)),
            Message::Log { frame, .. } if frame.is_empty() => {}
            Message::Commit(commit) if commit.epoch == context.epoch => {
                context.act(Action::Adopt(commit));
                let backup = Backup::new(context, conn, &commit);
                return Turn::Become(Box::new(Role::Backup(backup)));
            }
            Message::Refuse(why) => self.failed(context, why),
            // There is no machine any more that could be joined.
            Message::Bye(Bye::Ended) => {
                self.failed(context, "the machine has ended".into());
                return Turn::Halt(Halt::Ended);
            }
            Message::Bye(_) => self.failed(context, "the primary left".into()),
            _ => self.failed(context, "the primary broke the protocol".into()),
        }
        Turn::Stay
    }

    fn host_says(&mut self, context: &mut Context, conn: Conn, message: Message) {
        self.hosts.retain(|host| *host != conn);
        match message {
            Message::Welcome { vm, epoch } if self.source.is_none() => {
                if context.vm.is_some_and(|ours| ours != vm) || epoch < context.epoch {
                    context.refuse(conn, "this side knows of a later epoch");
                    return;
                }
                context.vm = Some(vm);
                context.epoch = epoch;
                let record = Record { vm, epoch, role: RecordRole::Syncing };
                context.act(Action::Persist(record));
                self.source = Some(Source { conn, heard: context.now, said: context.now });
            }
            Message::Refuse(why) => {
                context.act(Action::Close(conn));
                context.tell(Notice::Refused(why));
            }
            _ => context.act(Action::Close(conn)),
        }
    }

    fn failed(&mut self, context: &mut Context, why: String) {
        if let Some(source) = self.source.take() {
            context.act(Action::Close(source.conn));
            context.act(Action::AbortTransfer);
            context.tell(Notice::JoiningFailed(why));
        }
    }

    fn tick(&mut self, context: &mut Context) -> Turn {
        let (patience, beat) = (context.config.joining_timeout, context.config.heartbeat);
        if let Some(source) = &mut self.source {
            if context.now >= source.heard.after(patience) {
                self.failed(context, "the primary is silent".into());
            } else if context.now >= source.said.after(beat) {
                source.said = context.now;
                context.send(source.conn, Message::Ack(Ack::default()));
            }
        }
        Turn::Stay
    }

    pub(super) fn deadline(&self, context: &Context) -> Option<HostNs> {
        let source = self.source.as_ref()?;
        let silent = source.heard.after(context.config.joining_timeout);
        Some(silent.min(source.said.after(context.config.heartbeat)))
    }

    pub(super) fn is_joining(&self) -> bool {
        self.source.is_some()
    }
}
