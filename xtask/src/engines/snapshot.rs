//! A module that has run its initialisation: Go's runtime and packages take 16 ms to set up, which no instance should pay.
//!
//! The module is run by an interpreter; then its memory and globals become the initial ones of a new module. Go's own
//! module has as many data segments as a module may have, the new one some hundred.

use anyhow::{Context, Result, bail, ensure};
use wasm_encoder::{
    ConstExpr, DataSection, ExportKind, ExportSection, GlobalSection, GlobalType, MemorySection, MemoryType, Module,
    RawSection, ValType,
};
use wasmi::{Caller, Engine, Extern, Linker, Memory, Store, Val};
use wasmparser::{ExternalKind, Parser, Payload};

/// Zeroes between two data segments that cost less than another segment.
const GAP: usize = 64;

const PAGE: usize = 65_536;

/// Runs the exports `first`, in this order, and takes them away.
pub(super) fn take(module: &[u8], first: &[&str]) -> Result<Vec<u8>> {
    let globals = global_types(module)?;
    let open = rewrite(module, &Change::Open { globals: globals.len() })?;
    let state = run(&open, first, globals.len())?;
    rewrite(module, &Change::Closed { state: &state, types: &globals, without: first })
}

/// What an instance consists of, apart from its tables, which Go leaves alone.
struct State {
    memory: Vec<u8>,
    globals: Vec<Val>,
}

enum Change<'a> {
    /// All globals exported.
    Open { globals: usize },
    /// The state as it is now.
    Closed { state: &'a State, types: &'a [GlobalType], without: &'a [&'a str] },
}

fn exported_global(index: usize) -> String {
    format!("global {index}")
}

fn global_types(module: &[u8]) -> Result<Vec<GlobalType>> {
    let mut types = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::GlobalSection(globals) = payload? {
            for global in globals {
                let ty = global?.ty;
                let val_type = match ty.content_type {
                    wasmparser::ValType::I32 => ValType::I32,
                    wasmparser::ValType::I64 => ValType::I64,
                    other => bail!("a global of type {other} cannot be kept"),
                };
                types.push(GlobalType { val_type, mutable: ty.mutable, shared: false });
            }
        }
    }
    Ok(types)
}

fn rewrite(module: &[u8], change: &Change<'_>) -> Result<Vec<u8>> {
    let mut out = Module::new();
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload?;
        match (&payload, change) {
            (Payload::ImportSection(imports), _) => {
                for import in imports.clone().into_imports() {
                    let is_function = matches!(import?.ty, wasmparser::TypeRef::Func(_));
                    ensure!(is_function, "only functions can be imported");
                }
                copy(&mut out, module, &payload)?;
            }
            (Payload::ExportSection(exports), _) => {
                out.section(&export_section(exports.clone(), change)?);
            }
            (Payload::MemorySection(memories), Change::Closed { state, .. }) => {
                let memory = memories.clone().into_iter().next().context("a module without memory")??;
                let minimum = u64::try_from(state.memory.len() / PAGE)?;
                let mut section = MemorySection::new();
                let maximum = memory.maximum;
                section.memory(MemoryType { minimum, maximum, memory64: false, shared: false, page_size_log2: None });
                out.section(&section);
            }
            (Payload::GlobalSection(_), Change::Closed { state, types, .. }) => {
                let mut section = GlobalSection::new();
                for (ty, value) in types.iter().zip(&state.globals) {
                    let value = match value {
                        Val::I32(value) => ConstExpr::i32_const(*value),
                        Val::I64(value) => ConstExpr::i64_const(*value),
                        other => bail!("a global with the value {other:?} cannot be kept"),
                    };
                    section.global(*ty, &value);
                }
                out.section(&section);
            }
            (Payload::DataSection(_), Change::Closed { state, .. }) => {
                out.section(&data_section(&state.memory)?);
            }
            (Payload::StartSection { .. }, _) => bail!("a module with a start function has no moment for a snapshot"),
            // The count is for instructions that Go does not use, and would be wrong now.
            (Payload::DataCountSection { .. }, Change::Closed { .. }) | (Payload::CustomSection(_), _) => {}
            _ => copy(&mut out, module, &payload)?,
        }
    }
    Ok(out.finish())
}

fn copy(out: &mut Module, module: &[u8], payload: &Payload<'_>) -> Result<()> {
    if let Some((id, range)) = payload.as_section() {
        let range = usize::try_from(range.start)?..usize::try_from(range.end)?;
        out.section(&RawSection { id, data: module.get(range).context("a section beyond the end")? });
    }
    Ok(())
}

fn export_section(exports: wasmparser::ExportSectionReader<'_>, change: &Change<'_>) -> Result<ExportSection> {
    let mut section = ExportSection::new();
    for export in exports {
        let export = export?;
        let kind = match export.kind {
            ExternalKind::Func => ExportKind::Func,
            ExternalKind::Memory => ExportKind::Memory,
            other => bail!("an export of kind {other:?} is not expected"),
        };
        if !matches!(change, Change::Closed { without, .. } if without.contains(&export.name)) {
            section.export(export.name, kind, export.index);
        }
    }
    if let Change::Open { globals } = change {
        for index in 0..*globals {
            section.export(&exported_global(index), ExportKind::Global, u32::try_from(index)?);
        }
    }
    Ok(section)
}

/// The parts of the memory that are not zero.
fn data_section(memory: &[u8]) -> Result<DataSection> {
    let mut section = DataSection::new();
    let mut segment: Option<std::ops::Range<usize>> = None;
    let mut write = |range: std::ops::Range<usize>| -> Result<()> {
        let offset = ConstExpr::i32_const(u32::try_from(range.start)?.cast_signed());
        section.active(0, &offset, memory.get(range).unwrap_or_default().iter().copied());
        Ok(())
    };
    for (at, _) in memory.iter().enumerate().filter(|(_, byte)| **byte != 0) {
        match &mut segment {
            Some(range) if at - range.end < GAP => range.end = at + 1,
            _ => {
                if let Some(range) = segment.replace(at..at + 1) {
                    write(range)?;
                }
            }
        }
    }
    segment.map_or(Ok(()), write)?;
    Ok(section)
}

fn run(module: &[u8], first: &[&str], globals: usize) -> Result<State> {
    let mut config = wasmi::Config::default();
    config.set_max_recursion_depth(100_000).set_max_stack_height(64 << 20);
    let engine = Engine::new(&config);
    let module = wasmi::Module::new(&engine, module).context("the module is not valid")?;
    let mut store = Store::new(&engine, 0u64);
    let mut linker = Linker::new(&engine);
    // Go imports a function once for every package that declares it.
    linker.allow_shadowing(true);
    for import in module.imports() {
        let name = import.name().to_owned();
        let ty = import.ty().func().context("only functions can be imported")?.clone();
        linker.func_new(import.module(), import.name(), ty, move |caller, given, results| {
            let answer = system(caller, &name, given).map_err(wasmi::Error::new)?;
            if let Some(result) = results.first_mut() {
                *result = Val::I32(answer);
            }
            Ok(())
        })?;
    }
    let instance = linker.instantiate_and_start(&mut store, &module).context("the module cannot be instantiated")?;
    for name in first {
        let function = instance.get_typed_func::<(), ()>(&store, name).with_context(|| format!("no export {name}"))?;
        function.call(&mut store, ()).with_context(|| format!("{name} failed"))?;
    }
    let memory = memory(instance.get_export(&store, "memory"))?.data(&store).to_vec();
    let value = |index| {
        let global = instance.get_global(&store, &exported_global(index)).context("a global was lost")?;
        Ok(global.get(&store))
    };
    Ok(State { memory, globals: (0..globals).map(value).collect::<Result<_>>()? })
}

fn memory(export: Option<Extern>) -> Result<Memory> {
    export.and_then(Extern::into_memory).context("the module exports no memory")
}

/// The system calls of a program that starts, as the adapter answers them. Returns an error number, 0 for none.
fn system(mut caller: Caller<'_, u64>, name: &str, given: &[Val]) -> Result<i32, String> {
    let memory = memory(caller.get_export("memory")).map_err(|error| error.to_string())?;
    let argument = |n: usize| match given.get(n) {
        Some(Val::I32(value)) => Ok(value.cast_unsigned() as usize),
        other => Err(format!("{name}: the argument {n} is {other:?}")),
    };
    let mut draws = *caller.data();
    let mut store = |at: usize, bytes: &[u8]| memory.write(&mut caller, at, bytes).map_err(|error| error.to_string());
    match name {
        "set_clock" | "sched_yield" | "args_get" | "environ_get" => {}
        "clock_time_get" => {
            let now: i64 = if argument(0)? == 0 { 946_684_800_000_000_000 } else { 1_000_000_000 };
            store(argument(2)?, &now.to_le_bytes())?;
        }
        "random_get" => {
            let at = argument(0)?;
            for place in at..at + argument(1)? {
                draws = draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                store(place, &[draws.to_be_bytes()[0]])?;
            }
            *caller.data_mut() = draws;
        }
        "args_sizes_get" | "environ_sizes_get" => {
            store(argument(0)?, &[0; 4])?;
            store(argument(1)?, &[0; 4])?;
        }
        "fd_write" => {
            let (parts, count, out) = (argument(1)?, argument(2)?, argument(3)?);
            let mut written = 0u32;
            for part in 0..count {
                let mut place = [0; 8];
                memory.read(&caller, parts + 8 * part, &mut place).map_err(|error| error.to_string())?;
                let [.., a, b, c, d] = place;
                written = written.wrapping_add(u32::from_le_bytes([a, b, c, d]));
            }
            memory.write(&mut caller, out, &written.to_le_bytes()).map_err(|error| error.to_string())?;
        }
        "poll_oneoff" => {
            // Every subscription is ready: its user data, no error, its type.
            let (input, output, count) = (argument(0)?, argument(1)?, argument(2)?);
            for n in 0..count {
                let mut subscription = [0; 48];
                memory.read(&caller, input + 48 * n, &mut subscription).map_err(|error| error.to_string())?;
                let [a, b, c, d, e, f, g, h, tag, ..] = subscription;
                let mut event = [0; 32];
                event[..8].copy_from_slice(&[a, b, c, d, e, f, g, h]);
                event[10] = tag;
                memory.write(&mut caller, output + 32 * n, &event).map_err(|error| error.to_string())?;
            }
            let ready = u32::try_from(count).unwrap_or_default().to_le_bytes();
            memory.write(&mut caller, argument(3)?, &ready).map_err(|error| error.to_string())?;
        }
        "proc_exit" => return Err("the program ended itself".into()),
        _ => return Ok(8),
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = r#"(module
        (memory (export "memory") 1)
        (global $g (mut i64) (i64.const 1))
        (data (i32.const 8) "abc")
        (func (export "_initialize") (global.set $g (i64.const 7)) (i32.store8 (i32.const 9) (i32.const 120))
            (drop (memory.grow (i32.const 1))) (i32.store8 (i32.const 70000) (i32.const 33)))
        (func (export "get") (result i64) (global.get $g)))"#;

    #[test]
    fn a_snapshot_goes_on_where_the_initialisation_ended() {
        let snapshot = take(&wat::parse_str(PROGRAM).unwrap(), &["_initialize"]).unwrap();
        let open = rewrite(&snapshot, &Change::Open { globals: 1 }).unwrap();
        let state = run(&open, &[], 1).unwrap();
        assert_eq!(state.memory.len(), 2 * PAGE);
        assert_eq!((&state.memory[8..11], state.memory[70_000]), (&b"axc"[..], 33));
        assert!(matches!(state.globals[..], [Val::I64(7)]));
        assert!(take(&snapshot, &["_initialize"]).is_err(), "what ran is gone");
    }

    #[test]
    fn near_segments_become_one() {
        let mut memory = vec![0; 400];
        memory[10] = 1;
        memory[50] = 2;
        memory[300] = 3;
        assert_eq!(data_section(&memory).unwrap().len(), 2);
    }
}
