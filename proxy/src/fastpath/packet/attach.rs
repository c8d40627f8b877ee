//! The program on one device: attached such that it outlives the process, put in the place of a former one, taken off.

use std::error::Error;
use std::mem;

use aya::programs::links::FdLink;
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcHandle};
use aya::programs::{Link as _, LinkOrder, SchedClassifier};
use aya::util::KernelVersion;
use nix::net::if_::if_nameindex;
use tracing::debug;

use super::pins::Pins;
use crate::chain::chain;

type AttachError = Box<dyn Error + Send + Sync>;

/// Where a device runs the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// TCX, since Linux 6.6: an attachment is an object of its own, which ends with its last descriptor or pin.
    Tcx,
    /// The clsact queueing discipline, in all kernels: an attachment is a filter, a part of the device.
    Clsact,
}

impl Hook {
    /// The better one of those that this kernel has.
    pub fn of_this_kernel() -> Self {
        let has_tcx = KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0));
        if has_tcx { Self::Tcx } else { Self::Clsact }
    }
}

/// Attaches to a device, by index and name: in the place of the program of a former process, if that is there, so that no
/// packet comes in between. Without `pins` it ends with what is returned.
pub(super) fn attach(
    program: &mut SchedClassifier,
    device: (u32, &str),
    hook: Hook,
    pins: Option<&Pins>,
) -> Result<Option<SchedClassifierLink>, AttachError> {
    match hook {
        Hook::Tcx => attach_link(program, device, pins),
        Hook::Clsact => attach_filter(program, device.1, pins),
    }
}

fn attach_link(
    program: &mut SchedClassifier,
    (index, name): (u32, &str),
    pins: Option<&Pins>,
) -> Result<Option<SchedClassifierLink>, AttachError> {
    if let Some(pins) = pins
        && let Some(former) = pins.link(index)
    {
        match program.attach_to_link(former.try_into()?) {
            // The pin stays; this descriptor of it need not.
            Ok(link) => {
                drop(program.take_link(link)?);
                return Ok(None);
            }
            // Another device had this index.
            Err(error) => {
                debug!(device = name, "the former attachment is gone: {}", chain(&error));
                pins.forget_link(index);
            }
        }
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    let link = program.attach_with_options(name, TcAttachType::Ingress, order)?;
    let link = program.take_link(link)?;
    let Some(pins) = pins else { return Ok(Some(link)) };
    pins.keep(index, FdLink::try_from(link)?)?;
    Ok(None)
}

/// The priority of all filters that outlive their process: one that is neither chosen by people nor, from 49,152 down, by the
/// kernel.
const PRIORITY: u16 = 27_746;

fn attach_filter(
    program: &mut SchedClassifier,
    name: &str,
    pins: Option<&Pins>,
) -> Result<Option<SchedClassifierLink>, AttachError> {
    // Where the discipline is there already this fails.
    let _exists = tc::qdisc_add_clsact(name);
    let Some(pins) = pins else {
        let options = TcAttachOptions::Netlink(NlOptions::default());
        let link = program.attach_with_options(name, TcAttachType::Ingress, options)?;
        return Ok(Some(program.take_link(link)?));
    };
    let link = match program.attach_to_link(filter(name, pins)?) {
        Ok(link) => link,
        Err(_none) => {
            let options = NlOptions { priority: PRIORITY, handle: handle(pins), classid: None };
            program.attach_with_options(name, TcAttachType::Ingress, TcAttachOptions::Netlink(options))?
        }
    };
    // It is a few numbers, and takes the filter away when it is dropped.
    mem::forget(program.take_link(link)?);
    Ok(None)
}

/// The filter that a daemon with this state has on the device, or would have: it is found by numbers alone.
fn filter(name: &str, pins: &Pins) -> Result<SchedClassifierLink, AttachError> {
    Ok(SchedClassifierLink::attached(name, TcAttachType::Ingress, PRIORITY, handle(pins), None)?)
}

/// Daemons have one priority, and each a handle of its own.
fn handle(pins: &Pins) -> TcHandle {
    TcHandle::from(pins.number())
}

/// Takes what outlives its process off a device, by index and name. There may be nothing.
pub(super) fn detach((index, name): (u32, &str), hook: Hook, pins: &Pins) {
    match hook {
        Hook::Tcx => pins.forget_link(index),
        Hook::Clsact => {
            let detached = filter(name, pins).and_then(|filter| filter.detach().map_err(AttachError::from));
            if let Err(error) = detached {
                debug!(device = name, "no filter is removed: {}", chain(&*error));
            }
        }
    }
}

/// Takes what outlives its process off all devices of this network namespace, and removes the state.
pub(super) fn remove(pins: &Pins, hook: Hook) {
    if hook == Hook::Clsact {
        for device in if_nameindex().iter().flatten() {
            detach((device.index(), &device.name().to_string_lossy()), hook, pins);
        }
    }
    pins.remove();
}
