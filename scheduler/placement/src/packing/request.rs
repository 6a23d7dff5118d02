//! Requests as the packer keeps them: checked once, numbered, and judged against every node class.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::PackingError;
use super::class::{ClassRefusal, Classes, HOSTNAME_LABEL};
use super::config::{Configs, ShapeId};
use super::device::WHOLE_MILLI;
use super::model::{Amounts, GpuRequest, MAX_DEVICES, Request};
use super::typical::PodKind;

/// Number of a request known to a packer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub(super) u32);

/// A request with what follows from it.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) amounts: Amounts,
    pub(super) pod: PodKind,
    /// Only this node, by name.
    pub(super) host: Option<String>,
    /// Per node class, the number of its shape there, or why the class is out.
    pub(super) by_class: Vec<Result<ShapeId, ClassRefusal>>,
    /// Makes of nodes that hold it when idle, ascending.
    pub(super) makes: Box<[u16]>,
}

impl Spec {
    fn new(classes: &Classes, configs: &mut Configs, request: &Request) -> Self {
        let judge = |class| {
            classes
                .judge(class, request)
                .map(|shape| configs.intern_shape(shape))
        };
        let by_class: Vec<_> = classes.list.iter().map(judge).collect();
        let makes = classes.makes_for(&request.amounts, |class| {
            let verdict = by_class.get(class as usize)?;
            Some(configs.shape(verdict.ok()?).count())
        });
        Self {
            amounts: request.amounts,
            by_class,
            makes,
            pod: PodKind {
                milli_cpu: super::cluster::signed(request.amounts.milli_cpu),
                shape: classes.shape_on(request),
                accepts: classes.accepted(request),
            },
            host: request.selector.get(HOSTNAME_LABEL).cloned(),
        }
    }

    /// The number of its shape on a class that may take it.
    pub(super) fn shape_on(&self, class: u32) -> Option<ShapeId> {
        self.by_class
            .get(class as usize)
            .and_then(|verdict| verdict.ok())
    }
}

/// All requests met.
#[derive(Debug, Default)]
pub(super) struct Specs {
    numbers: BTreeMap<Request, u32>,
    pub(super) list: Vec<Arc<Spec>>,
}

impl Specs {
    pub(super) fn intern(
        &mut self,
        classes: &Classes,
        configs: &mut Configs,
        request: &Request,
    ) -> Result<RequestId, PackingError> {
        if let Some(id) = self.numbers.get(request) {
            return Ok(RequestId(*id));
        }
        check(request)?;
        let id = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.list
            .push(Arc::new(Spec::new(classes, configs, request)));
        self.numbers.insert(request.clone(), id);
        Ok(RequestId(id))
    }

    /// Judges every request anew, after classes or kinds have been added.
    pub(super) fn judge_again(&mut self, classes: &Classes, configs: &mut Configs) {
        for (request, id) in &self.numbers {
            if let Some(spec) = self.list.get_mut(*id as usize) {
                *spec = Arc::new(Spec::new(classes, configs, request));
            }
        }
    }

    pub(super) fn spec(&self, id: RequestId) -> Option<&Arc<Spec>> {
        self.list.get(id.0 as usize)
    }
}

fn check(request: &Request) -> Result<(), PackingError> {
    let wrong = |what: String| Err(PackingError::BadRequest { what });
    match &request.gpu {
        GpuRequest::Devices { count, .. } if *count == 0 || *count > MAX_DEVICES => {
            wrong(format!("{count} GPUs: ask for 1 to {MAX_DEVICES}"))
        }
        GpuRequest::Devices { milli, .. } if *milli == 0 || *milli > WHOLE_MILLI => wrong(format!(
            "{milli} thousandths of a GPU: ask for 1 to {WHOLE_MILLI}"
        )),
        GpuRequest::Memory { mib: 0 } => {
            wrong("0 MiB of GPU memory: ask for at least 1".to_owned())
        }
        _ => Ok(()),
    }
}
