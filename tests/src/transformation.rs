//! A real Transformation Domain, as far as Processes ask it: `plugins/process/proto/transformation.proto` over gRPC.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use prost::Message;
use tonic::Status;
use transom_plugin_process::proto::transformation::{
    GET_PROCESS_DEFINITION, GetProcessDefinitionRequest, GetProcessDefinitionResponse, ProcessDefinition,
};

use crate::Rpc;

/// Definitions by tenant and id, and how the server behaves.
#[derive(Default)]
struct State {
    definitions: BTreeMap<(String, String), ProcessDefinition>,
    behaviour: Behaviour,
}

/// How the server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// As it should.
    #[default]
    Good,
    /// It refuses everybody.
    Down,
    /// Never.
    Slow,
    /// With the definition of whatever tenant has one of this id.
    AnyTenant,
}

/// The server. Dropping it ends it.
pub struct Transformation {
    /// Host and port.
    pub authority: String,
    state: Arc<Mutex<State>>,
    _rpc: Rpc,
}

impl Transformation {
    /// Without any definition.
    pub async fn start() -> Self {
        let state = Arc::<Mutex<State>>::default();
        let served = state.clone();
        let answers = move |(path, message): (String, Vec<u8>)| {
            let answer = answer(&served.lock().unwrap(), &path, &message);
            async move {
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            }
            .boxed()
        };
        let rpc = Rpc::start(Arc::new(answers)).await;
        Self { authority: rpc.authority.clone(), state, _rpc: rpc }
    }

    /// Publishes a version of a definition.
    ///
    /// # Panics
    ///
    /// Never.
    pub fn publish(&self, tenant: &str, id: &str, version: i64, content: &str) {
        let definition =
            ProcessDefinition { id: id.into(), tenant_id: tenant.into(), version, content: content.into() };
        self.state.lock().unwrap().definitions.insert((tenant.into(), id.into()), definition);
    }

    /// From now on.
    ///
    /// # Panics
    ///
    /// Never.
    pub fn behave(&self, behaviour: Behaviour) {
        self.state.lock().unwrap().behaviour = behaviour;
    }
}

/// None: there will be none.
fn answer(state: &State, path: &str, message: &[u8]) -> Option<Result<Vec<u8>, Status>> {
    if path != GET_PROCESS_DEFINITION {
        return Some(Err(Status::unimplemented("there is one method only")));
    }
    let Ok(request) = GetProcessDefinitionRequest::decode(message) else {
        return Some(Err(Status::invalid_argument("no request")));
    };
    let mut found = state.definitions.get(&(request.tenant_id, request.id.clone()));
    match state.behaviour {
        Behaviour::Slow => return None,
        Behaviour::Down => return Some(Err(Status::unavailable("down for the test"))),
        Behaviour::AnyTenant => found = state.definitions.values().find(|definition| definition.id == request.id),
        Behaviour::Good => {}
    }
    let found = found.ok_or_else(|| Status::not_found("no such definition"));
    Some(found.map(|definition| GetProcessDefinitionResponse { definition: Some(definition.clone()) }.encode_to_vec()))
}
