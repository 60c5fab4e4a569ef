//! `ftemu ctl`: one request to a running machine.

use crate::cli::{CtlAction, CtlFlags};
use crate::failure::Failure;
use drivers::control::{Keys, Reply, Request, ask};
use std::io::Write;

/// Asks, and prints what is answered.
pub fn run(flags: &CtlFlags) -> Result<u8, Failure> {
    let request = request(&flags.action)?;
    let reply = ask(&flags.socket, &request).map_err(|e| Failure::file(&flags.socket, e))?;
    let text = match (reply, &flags.action) {
        (Reply::Error(why), _) => return Err(Failure::Host(why)),
        (Reply::Done {}, _) => return Ok(0),
        (Reply::Status(status), CtlAction::Status { json: true }) => {
            serde_json::to_string(&status).expect("a status can always be encoded")
        }
        (Reply::Status(status), _) => status.to_string(),
    };
    // Nobody need read it.
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(0)
}

fn request(action: &CtlAction) -> Result<Request, Failure> {
    Ok(match action {
        CtlAction::Status { .. } => Request::Status {},
        CtlAction::Promote => Request::Promote {},
        CtlAction::Detach => Request::Detach {},
        CtlAction::Powerdown => Request::Powerdown {},
        CtlAction::Reset => Request::Reset {},
        CtlAction::Pause => Request::Pause {},
        CtlAction::Resume => Request::Resume {},
        CtlAction::Snapshot { file } => {
            let file = std::path::absolute(file).map_err(|e| Failure::file(file, e))?;
            Request::Snapshot { file }
        }
        CtlAction::Sendkey { keys } => {
            Request::Sendkey { keys: Keys::parse(&keys.join(" ")).map_err(Failure::Usage)? }
        }
    })
}
