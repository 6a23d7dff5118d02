//! Speed and cost of purchase solves: `cargo run --release -p kaito-placement --example purchases`.
//!
//! Prints per size: pods per second, machines, dollars per hour, and the distance to a bound. The bound is the price of
//! the scarcest resource if pods could be cut: for each pod the largest share of any one resource that all offers can
//! give for a dollar. Nothing can be cheaper, and the optimum may well be dearer.
#![expect(
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    reason = "an example prints, measures, and may fail loudly"
)]

mod cases;

use kaito_placement::purchasing::{Problem, solve};
use std::time::Instant;

/// Steps that one solve may take.
const STEPS: u64 = 20_000_000;

/// Dollars per hour below which nothing can be had: the best single-resource bound.
fn bound(problem: &Problem) -> f64 {
    let by_resource = (0..5).map(|resource| {
        problem
            .lots
            .iter()
            .map(|lot| {
                let kind = &problem.kinds[lot.kind];
                let need = kind.each.amounts()[resource] as f64 * lot.members as f64;
                let cheapest = kind.suits.iter().map(|at| {
                    let offer = &problem.offers[*at];
                    offer.micro_dollars as f64 / offer.capacity.amounts()[resource] as f64
                });
                if need > 0.0 {
                    need * cheapest.fold(f64::INFINITY, f64::min)
                } else {
                    0.0
                }
            })
            .sum::<f64>()
    });
    by_resource.fold(0.0, f64::max) / 1e6
}

/// Processor time of this process in seconds, which other work on the machine does not lengthen; 0 where the kernel
/// does not tell.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let first = text
        .split(' ')
        .next()
        .and_then(|number| number.parse::<f64>().ok());
    first.unwrap_or(0.0) / 1e9
}

fn report(name: &str, problem: &Problem) {
    let (started, before) = (Instant::now(), processor_seconds());
    let Some(solution) = solve(problem, STEPS) else {
        println!("{name}: some pod fits no offer");
        return;
    };
    let wall = started.elapsed().as_secs_f64();
    let seconds = processor_seconds() - before;
    let pods: u64 = problem.lots.iter().map(|lot| lot.members).sum();
    let dollars = solution.micro_dollars as f64 / 1e6;
    let bound = bound(problem);
    println!(
        "{name:<28} {pods:>6} pods {types:>5} offers {seconds:>7.3} s ({wall:.3} wall) {rate:>9.0} pods/s {machines:>6} machines \
         ${dollars:>10.2}/h bound ${bound:>10.2}/h +{gap:.2} % steps {steps}{more}",
        types = problem.offers.len(),
        rate = pods as f64 / seconds,
        machines = solution.machines.len(),
        gap = (dollars / bound - 1.0) * 100.0,
        steps = solution.steps,
        more = if solution.complete {
            ""
        } else {
            " (budget spent)"
        },
    );
}

fn main() {
    println!(
        "one core, processor time, {STEPS} steps at most; price of an offer as given, bound: one resource, pods cut"
    );
    for pods in [
        1, 50, 100, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 100_000,
    ] {
        report(
            "plain, 400 types",
            &cases::plain(pods, cases::linear_offers(400), 42),
        );
    }
    for pods in [1_000, 20_000] {
        report("mixed classes, 3 zones", &cases::mixed(pods, 400, 42));
    }
    for pods in [100, 1_000, 20_000] {
        report("GPU pods, priced SKUs", &cases::gpu(pods, 40, 42));
    }
}
