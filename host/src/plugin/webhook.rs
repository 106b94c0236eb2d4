//! Calls to the exports that a plugin may have beside `reconcile`: admission and conversion.

use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, ComponentNamedList, Instance, Lift, Lower};

use super::compile::Compiled;
use super::error::CallError;
use super::instance::{CallStats, LoadError, Plugin, State};
use crate::plan::contract::Violation;
use bindings::exports::transom::plugin::admission as wit;

mod bindings {
    #![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "admission-only",
        exports: { default: async },
        with: { "transom:plugin/types": crate::plugin::bindings::transom::plugin::types },
    });
}

const ADMISSION: &str = "transom:plugin/admission@0.1.0";
const CONVERSION: &str = "transom:plugin/conversion@0.1.0";

/// Of a verdict, as the contract has it.
const MAX_VIOLATIONS: usize = 32;
const MAX_WARNINGS: usize = 16;
const MAX_WARNING: usize = 256;
const MAX_FIELD: usize = 256;
const MAX_MESSAGE: usize = 1024;

/// Where the functions are in a component that exports them.
#[derive(Clone, Copy, Default)]
pub(super) struct Exports {
    admission: Option<(ComponentExportIndex, ComponentExportIndex)>,
    convert: Option<ComponentExportIndex>,
}

impl Exports {
    /// By the component's exports. An interface that lacks a function is no such interface.
    pub(super) fn find(compiled: &Compiled) -> Result<Self, LoadError> {
        let export = |interface: &str, function: &str| {
            let Some((_, index)) = compiled.0.get_export(None, interface) else { return Ok(None) };
            match compiled.0.get_export(Some(&index), function) {
                Some((_, function)) => Ok(Some(function)),
                None => Err(LoadError::World(format!("{interface} has no function {function}"))),
            }
        };
        let admission = export(ADMISSION, "default")?.zip(export(ADMISSION, "validate")?);
        Ok(Self { admission, convert: export(CONVERSION, "convert")? })
    }

    pub(super) fn any(&self) -> bool {
        self.admission.is_some() || self.convert.is_some()
    }

    /// Compares the types of the exports with ours: what calls rely on.
    pub(super) fn check(&self, instance: &Instance, store: &mut Store<State>) -> Result<(), LoadError> {
        if let Some((default, validate)) = self.admission {
            typed::<(&wit::Review,), (Option<String>,)>(instance, store, default, "admission.default")?;
            typed::<(&wit::Review,), (wit::Verdict,)>(instance, store, validate, "admission.validate")?;
        }
        if let Some(convert) = self.convert {
            typed::<(&str, &str), (Result<String, String>,)>(instance, store, convert, "conversion.convert")?;
        }
        Ok(())
    }
}

fn typed<P, R>(
    instance: &Instance,
    store: &mut Store<State>,
    function: ComponentExportIndex,
    name: &str,
) -> Result<(), LoadError>
where
    P: ComponentNamedList + Lower,
    R: ComponentNamedList + Lift,
{
    let found = instance.get_func(&mut *store, function);
    let found = found.ok_or_else(|| LoadError::World(format!("{name} is no function")))?;
    found.typed::<P, R>(store).map(drop).map_err(|error| LoadError::World(format!("{name}: {error:#}")))
}

/// An object that is about to be stored.
#[derive(Clone, Copy, Debug)]
pub struct Review<'a> {
    /// The object, JSON.
    pub object: &'a str,
    /// As it is stored; none for a create.
    pub old: Option<&'a str>,
    /// `spec.config` of the record, `{}` when there is none.
    pub config: &'a str,
}

/// What a plugin says of it, within bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Empty: admitted.
    pub violations: Vec<Violation>,
    /// For whoever writes it.
    pub warnings: Vec<String>,
}

impl Review<'_> {
    fn wire(&self) -> wit::Review {
        wit::Review {
            operation: if self.old.is_some() { wit::Operation::Update } else { wit::Operation::Create },
            object: self.object.to_owned(),
            old_object: self.old.map(ToOwned::to_owned),
            config: self.config.to_owned(),
        }
    }
}

impl Plugin {
    /// Does it take part in admission?
    #[must_use]
    pub fn has_admission(&self) -> bool {
        self.exports().admission.is_some()
    }

    /// Can it convert objects between versions of their kind?
    #[must_use]
    pub fn has_conversion(&self) -> bool {
        self.exports().convert.is_some()
    }

    /// The object with defaults filled in, JSON; none when nothing changes, or without the export.
    ///
    /// # Errors
    /// When the call gives no answer.
    pub async fn default(&self, review: Review<'_>) -> Result<Option<String>, CallError> {
        let Some((default, _)) = self.exports().admission else { return Ok(None) };
        let (answer, _): (Option<String>, CallStats) = self.call(default, (&review.wire(),)).await?;
        Ok(answer)
    }

    /// What is wrong with an object; nothing without the export.
    ///
    /// # Errors
    /// When the call gives no answer.
    pub async fn validate(&self, review: Review<'_>) -> Result<Verdict, CallError> {
        let Some((_, validate)) = self.exports().admission else { return Ok(Verdict::default()) };
        let (verdict, _): (wit::Verdict, CallStats) = self.call(validate, (&review.wire(),)).await?;
        let short = crate::plan::check::shorten;
        let violation = |v: super::bindings::transom::plugin::types::Violation| Violation {
            field: short(&v.field, MAX_FIELD),
            message: short(&v.message, MAX_MESSAGE),
        };
        Ok(Verdict {
            violations: verdict.violations.into_iter().take(MAX_VIOLATIONS).map(violation).collect(),
            warnings: verdict.warnings.iter().take(MAX_WARNINGS).map(|w| short(w, MAX_WARNING)).collect(),
        })
    }

    /// The object, JSON, in another version of its kind.
    ///
    /// # Errors
    /// When the call gives no answer. An answer that says it cannot be is an `Ok(Err(…))`.
    pub async fn convert(&self, object: &str, to: &str) -> Result<Result<String, String>, CallError> {
        let Some(convert) = self.exports().convert else {
            return Ok(Err("the plugin does not export transom:plugin/conversion".into()));
        };
        let (answer, _): (Result<String, String>, CallStats) = self.call(convert, (object, to)).await?;
        Ok(answer)
    }
}
