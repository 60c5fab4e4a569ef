//! Mistakes made on purpose: each is seen within a thousand seeds, so the checkers and the faults
//! are good for something.

use simulation::{Mistake, seeds_to_catch};

#[test]
fn every_planted_mistake_is_caught() {
    // What a planted mistake breaks inside the protocol may also show as a panic; its text helps
    // nobody here.
    std::panic::set_hook(Box::new(|_| {}));
    let all = Mistake::all();
    assert!(all.len() >= 10);
    let mut missed = Vec::new();
    for mistake in all {
        match seeds_to_catch(mistake, 1000) {
            Some((seeds, what)) => println!("{mistake}: {seeds} seeds: {what:.120}"),
            None => missed.push(mistake.to_string()),
        }
    }
    assert!(missed.is_empty(), "not seen in a thousand seeds: {missed:?}");
}
