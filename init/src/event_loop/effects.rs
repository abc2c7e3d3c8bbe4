//! Effects become system calls. What fails becomes an event; nothing returns an error.

use cm_core::engine::effect::Effect;

use super::Shell;

impl Shell {
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Spawn { node, serial, manifest, unit, job, cause } => {
                self.spawn_job(node, serial, manifest, unit, job, &cause);
            }
            Effect::Signal { serial, signal } => self.signal(serial, signal),
            Effect::Kill { serial } => self.kill(serial),
            Effect::Freeze { serial, frozen } => self.freeze(serial, frozen),
            Effect::Batch { batch, generation, intent, steps } => {
                self.ask_batch(batch, generation, intent, &steps);
            }
            Effect::KillWorker => self.kill_worker(),
            Effect::Store { token, op } => self.ask_store(token, op),
            Effect::Forget { manifest } => {
                self.forget(manifest);
                self.close_unused_streams();
            }
            Effect::Publish { node, text } => self.publish(node, &text),
            Effect::Log { level, node, text } => {
                let address = node.map(|n| self.engine.address(n).to_string());
                self.say(level, address.as_deref(), &text);
            }
            Effect::Answer { request, verdict, tally, text } => self.answered(request, verdict, tally, text),
            Effect::Compare { node } => self.compare_again(node),
            Effect::Converged => self.converged(),
            Effect::Leave { down } => self.begin_leaving(down),
        }
    }
}
