//! Sessions that end, and subscriptions that are taken back: nothing of them comes again.

use std::net::SocketAddr;

use super::Stage;
use super::chance::Chance;
use super::line::{Line, Lost};
use super::message::Complaint;
use super::witness::Actor;
use crate::harness::raw::Client;
use crate::harness::wire::{self, Connect, Publish, Version};
use crate::lasting;

/// What the broker has been heard to say about something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    There,
    Gone,
    /// It was asked for a change and has not answered.
    Nothing,
}

/// A client whose session begins and ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ghost(Said);

impl Ghost {
    pub(super) const NAME: &str = "ghost";

    pub(super) fn new() -> Self {
        Self(Said::Gone)
    }

    pub(super) fn run(&mut self, stage: &Stage<'_>, chance: &mut Chance) -> Result<(), Complaint> {
        while !stage.is_over() {
            match self.live(stage, chance) {
                Ok(()) | Err(None) => {}
                Err(Some(complaint)) => return Err(complaint),
            }
        }
        Ok(())
    }

    /// Begins a session that something waits for, and ends it.
    fn live(&mut self, stage: &Stage<'_>, chance: &mut Chance) -> Result<(), Option<Complaint>> {
        let gone = |_: Lost| None;
        let before = self.0;
        self.say(Said::Nothing, stage.position(), stage);
        let (mut line, connack) = Line::open(stage.address, &lasting(Self::NAME))
            .inspect_err(|_| {
                if before == Said::There {
                    self.say(before, stage.position(), stage);
                }
            })
            .map_err(gone)?;
        let position = stage.position();
        if before != Said::Nothing && connack.session_present() != (before == Said::There) {
            return Err(Some(Complaint::new(Self::NAME, format!("{before:?}, {connack:?}"))));
        }
        self.say(Said::There, position, stage);
        line.send(&wire::subscribe(Version::Mqtt5, 1, &[], &[("t/#", 2)])).map_err(gone)?;
        chance.pause(40);
        drop(line);
        chance.pause(40);
        if stage.is_over() {
            return Ok(());
        }
        self.say(Said::Nothing, stage.position(), stage);
        let clean = Connect::new(Version::Mqtt5, Self::NAME);
        Line::open(stage.address, &clean).map_err(gone)?;
        self.say(Said::Gone, stage.position(), stage);
        chance.pause(40);
        Ok(())
    }

    /// The last word of the broker, for a log of this length.
    fn say(&mut self, said: Said, position: u64, stage: &Stage<'_>) {
        self.0 = said;
        stage.keep(position, || Actor::Ghost(*self));
    }

    /// After a restart.
    pub(super) fn check(&mut self, address: SocketAddr) -> Result<(), Complaint> {
        let mut client = Client::connect(address, &lasting(Self::NAME));
        let there = client.connack.session_present();
        if self.0 != Said::Nothing && there != (self.0 == Said::There) {
            let what = format!("session present is {there}, the last word was {:?}", self.0);
            return Err(Complaint::new(Self::NAME, what));
        }
        if !there {
            client.ping();
        }
        self.0 = Said::There;
        Ok(())
    }
}

/// A client that subscribes and unsubscribes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waverer(Said);

impl Waverer {
    pub(super) const NAME: &str = "waverer";

    pub(super) fn begin(address: SocketAddr) -> Self {
        Client::connect(address, &lasting(Self::NAME)).subscribe("probe/end", 1);
        Self(Said::Gone)
    }

    pub(super) fn run(&mut self, stage: &Stage<'_>, chance: &mut Chance) {
        while !stage.is_over() {
            let _ = self.waver(stage, chance);
        }
    }

    fn waver(&mut self, stage: &Stage<'_>, chance: &mut Chance) -> Result<(), Lost> {
        let (mut line, _) = Line::open(stage.address, &lasting(Self::NAME))?;
        while !stage.is_over() {
            let (request, after) = match self.0 {
                Said::Gone => {
                    (wire::subscribe(Version::Mqtt5, 1, &[], &[("probe/+", 1)]), Said::There)
                }
                _ => (wire::unsubscribe(Version::Mqtt5, 1, &["probe/+"]), Said::Gone),
            };
            self.say(Said::Nothing, stage.position(), stage);
            line.send(&request)?;
            loop {
                let came = line.next()?;
                let position = stage.position();
                match came {
                    Some(packet) if packet[0] == request[0] + 0x0e => {
                        self.say(after, position, stage);
                        break;
                    }
                    Some(packet) if packet[0] >> 4 == 3 => {
                        let id = Publish::parse(Version::Mqtt5, &packet).id.unwrap();
                        line.send(&wire::ack(wire::PUBACK, id))?;
                    }
                    Some(packet) => panic!("unexpected {packet:02x?}"),
                    None => {}
                }
            }
            chance.pause(10);
        }
        Ok(())
    }

    fn say(&mut self, said: Said, position: u64, stage: &Stage<'_>) {
        self.0 = said;
        stage.keep(position, || Actor::Waverer(*self));
    }

    /// After a restart.
    pub(super) fn check(&mut self, address: SocketAddr, round: u32) -> Result<(), Complaint> {
        let complaint = |what: String| Err(Complaint::new(Self::NAME, what));
        let (probe, end) = (format!("probe of {round}"), format!("end of {round}"));
        let mut writer = Client::connect(address, &Connect::new(Version::Mqtt5, "prober"));
        writer.publish_surely(&Publish::new("probe/x", &probe));
        writer.publish_surely(&Publish::new("probe/end", &end));
        let mut client = Client::connect(address, &lasting(Self::NAME));
        if !client.connack.session_present() {
            return complaint("its session is not there".to_owned());
        }
        let mut there = false;
        loop {
            // What came of an earlier round may come again: nobody waited for its PUBACK.
            let publish = client.receive();
            client.acknowledge(&publish);
            there |= publish.text() == probe;
            if publish.text() == end {
                break;
            }
        }
        if self.0 != Said::Nothing && there != (self.0 == Said::There) {
            return complaint(format!("subscribed: {there}, the last word was {:?}", self.0));
        }
        self.0 = if there { Said::There } else { Said::Gone };
        Ok(())
    }
}
