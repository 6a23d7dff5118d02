//! Purchases against the optimum: `cargo run --release --manifest-path tests/bench/optimum/Cargo.toml`.
//!
//! Small enough cases are written as a mixed-integer program over *all* maximal contents of every machine, which is exact:
//! whatever can be bought is a choice of such contents. HiGHS solves it to the end or to its time limit; then its lower
//! bound counts. With `--write DIR` the models are written in LP format instead, for any other solver.

#[path = "../../../../scheduler/placement/examples/purchases/cases.rs"]
#[allow(dead_code, reason = "some cases belong to the example only")]
mod cases;
mod contents;

use kaito_placement::purchasing::{Problem, Solution, solve};
use std::fmt::Write as _;

/// Steps that one solve may take, as in the example.
const STEPS: u64 = 20_000_000;
/// Most contents for which the program is written.
const MOST_CONTENTS: usize = 60_000;

fn all_cases() -> Vec<(String, Problem)> {
    let mut found = Vec::new();
    for seed in 1..=10 {
        for (pods, kinds) in [(20, 5), (60, 8), (150, 8), (300, 10)] {
            let name = format!("gpu-{pods}x{kinds}-{seed}");
            found.push((name, cases::gpu(pods, kinds, seed)));
        }
    }
    found
}

/// The model in LP format.
fn text(program: &contents::Program) -> String {
    let mut text = "Minimize\n cost:".to_owned();
    for (at, one) in program.contents.iter().enumerate() {
        let _ = write!(text, " + {} x{at}\n", one.micro_dollars as f64 / 1e6);
    }
    text.push_str("Subject To\n");
    for (kind, wanted) in program.wanted.iter().enumerate() {
        let _ = write!(text, " k{kind}:");
        for (at, one) in program.contents.iter().enumerate() {
            if one.counts[kind] > 0 {
                let _ = write!(text, " + {} x{at}\n", one.counts[kind]);
            }
        }
        let _ = writeln!(text, " >= {wanted}");
    }
    text.push_str("General\n");
    for at in 0..program.contents.len() {
        let _ = writeln!(text, " x{at}");
    }
    text.push_str("End\n");
    text
}

/// What HiGHS found and what it proved, dollars per hour.
#[cfg(feature = "highs")]
fn optimum(program: &contents::Program) -> (f64, f64) {
    use highs::{ColProblem, Sense};
    let mut model = ColProblem::new();
    let rows: Vec<_> = program
        .wanted
        .iter()
        .map(|wanted| model.add_row(*wanted as f64..))
        .collect();
    for one in &program.contents {
        let factors = rows
            .iter()
            .zip(&one.counts)
            .filter(|(_, count)| **count > 0);
        let factors: Vec<_> = factors.map(|(row, count)| (*row, *count as f64)).collect();
        model.add_integer_column(one.micro_dollars as f64 / 1e6, 0.., &factors);
    }
    let mut model = model.optimise(Sense::Minimise);
    model.set_option("mip_rel_gap", 0.0);
    model.set_option("time_limit", 60.0);
    model.set_option("output_flag", false);
    let solved = model.solve();
    let value = solved.objective_value();
    (value, value * (1.0 - solved.mip_gap().max(0.0)))
}

#[cfg(not(feature = "highs"))]
fn optimum(_: &contents::Program) -> (f64, f64) {
    (f64::NAN, f64::NAN)
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let write = match arguments.next().as_deref() {
        Some("--write") => arguments.next(),
        _ => None,
    };
    let (mut worst, mut sum, mut count) = (0.0_f64, 0.0, 0_u32);
    for (name, problem) in all_cases() {
        let Some(program) = contents::program(&problem, MOST_CONTENTS) else {
            println!("{name}: too many contents, left out");
            continue;
        };
        let Some(Solution {
            micro_dollars,
            machines,
            ..
        }) = solve(&problem, STEPS)
        else {
            println!("{name}: some pod fits nothing");
            continue;
        };
        let ours = micro_dollars as f64 / 1e6;
        if let Some(directory) = &write {
            std::fs::create_dir_all(directory)?;
            std::fs::write(format!("{directory}/{name}.lp"), text(&program))?;
            println!("{name} {ours} {}", machines.len());
            continue;
        }
        let (found, proven) = optimum(&program);
        let above = (ours / found - 1.0) * 100.0;
        println!(
            "{name:<24} {:>6} contents {:>4} machines ours ${ours:.3}/h optimum ${found:.3}/h (proven ≥ {proven:.3}) \
             +{above:.2} %",
            program.contents.len(),
            machines.len(),
        );
        worst = worst.max(above);
        sum += above;
        count += 1;
    }
    println!(
        "{count} cases: mean +{:.2} %, worst +{worst:.2} %",
        sum / f64::from(count.max(1))
    );
    Ok(())
}
