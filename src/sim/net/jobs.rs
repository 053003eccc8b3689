//! The work of nodes' threads, which is done later in the thread of the simulation.

use std::collections::BTreeMap;
use std::fmt;

use super::{Event, Net, if_any};

/// The work of one thread.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// The jobs that nodes have started, by number, each with its node.
#[derive(Default)]
pub(super) struct Jobs(BTreeMap<u64, (usize, Job)>);

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Jobs {
    /// Removes the jobs of a node.
    pub(super) fn lose(&mut self, node: usize) -> Vec<Job> {
        let (gone, left): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.0).into_iter().partition(|(_, (of, _))| *of == node);
        self.0 = left;
        gone.into_values().map(|(_, job)| job).collect()
    }
}

/// Defers a job for a separate thread; it runs later in this one. Returns the job if no network is
/// installed.
pub(crate) fn submit(job: Job) -> Option<Job> {
    let mut job = Some(job);
    if_any(|net| net.submit(job.take()?));
    job
}

impl Net {
    fn submit(&mut self, job: Job) -> Option<()> {
        let time = self.rng.skewed(self.conditions.work);
        let number = self.happened + 1;
        self.jobs.0.insert(number, (self.current, job));
        self.at(self.now + time, Event::Job(number));
        Some(())
    }

    /// Takes a job that is due, unless its node has gone. Connections that it makes belong to its node.
    pub(crate) fn take_job(&mut self, number: u64) -> Option<Job> {
        let (node, job) = self.jobs.0.remove(&number)?;
        self.current = node;
        Some(job)
    }
}
