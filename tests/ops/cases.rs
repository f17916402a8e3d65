//! Trials of each case of each operator: `gpu::OP::CASE` and `cpu::OP::CASE` compare a backend with the definition,
//! `definition::OP::CASE` the definition with itself, `plan::OP::CASE` looks at what a GPU would do.

use std::sync::{Arc, OnceLock};

use libtest_mimic::{Completion, Failed, Trial};
use subquad::catalog::case::Case;
use subquad::catalog::domain::Domain;
use subquad::catalog::spec::Op;
use subquad::gpu::{Caps, plan};
use subquad::operator::{Operator, Precision, Rows};
use subquad::ops::all;
use subquad::tensor::{Access, HostTensor, TensorMap};
use subquad::verify::rows;
use subquad::verify::tolerance::Reference;

use crate::cover::{lacks, runs_here};
use crate::support::{self, assert_within, context, on_gpu, prepare, test};

pub(crate) fn tests() -> Vec<Trial> {
    let mut trials = vec![test(no_two_cases_of_an_operator_have_the_same_name)];
    for op in all() {
        for case in support::cases(op) {
            trials.extend(of_case(op, case));
        }
        // Cheap: of the slow cases too in a quick run.
        trials.extend((op.cases)().into_iter().filter(|case| !case.host).map(|case| of_plan(op, case)));
    }
    trials
}

/// A case with what its trials share: the first of them makes it, the last one drops it.
struct Subject {
    op: &'static Op,
    case: Case,
    made: OnceLock<Made>,
}

struct Made {
    operator: Box<dyn Operator>,
    inputs: TensorMap,
    reference: Reference,
}

impl Subject {
    fn made(&self) -> &Made {
        self.made.get_or_init(|| {
            let (operator, inputs) = prepare(self.op, &self.case);
            let reference = Reference::of(operator.as_ref(), &inputs, Rows::All);
            Made { operator, inputs, reference }
        })
    }

    fn assert_matches(&self, got: &TensorMap) {
        let Made { operator, inputs, reference } = self.made();
        assert_within("", reference, operator.as_ref(), inputs, got);
    }

    fn on_the_gpu(&self) -> Result<Completion, Failed> {
        let Some(ctx) = context() else { return Ok(Completion::ignored_with("no adapter")) };
        if let Some(reason) = lacks(self.case.dtype) {
            return Ok(Completion::ignored_with(reason));
        }
        if self.case.host {
            return Ok(Completion::ignored_with("no kernels"));
        }
        if !runs_here(self.op, &self.case) {
            return Ok(Completion::ignored_with("a software adapter, and kernels as in other cases: SUBQUAD_ALL=1"));
        }
        let Made { operator, inputs, .. } = self.made();
        self.assert_matches(&on_gpu(ctx, operator.as_ref(), inputs).outputs);
        Ok(Completion::Completed)
    }

    fn on_the_cpu(&self) -> Result<Completion, Failed> {
        let Made { operator, inputs, .. } = self.made();
        let outputs = operator.cpu(inputs).unwrap();
        self.assert_matches(&outputs);
        if operator.slots().iter().any(|slot| slot.access == Access::Update) {
            let mut in_place = inputs.clone();
            operator.cpu_update(&mut in_place).unwrap();
            let written = in_place.into_iter().filter(|(name, _)| outputs.get(name).is_some());
            self.assert_matches(&written.collect());
        }
        Ok(Completion::Completed)
    }

    /// Outputs have the shapes that are declared, and finite values: those that are not finite match each other
    /// whatever they are, and a case of them would test nothing. The definition of some rows, by which `bench` judges
    /// long sequences, is that of all at these rows.
    fn definition(&self) -> Result<Completion, Failed> {
        let Made { operator, inputs, reference } = self.made();
        let slots = operator.slots();
        let part = |name: &str| slots.iter().flat_map(|s| &s.parts).find(|p| p.name == name);
        for (name, values) in reference.exact() {
            assert_eq!(part(name).map(|p| p.shape.count()), Some(values.len()), "{name}");
            let spec = self.op.outputs.iter().find(|spec| spec.name == *name);
            let log = spec.is_some_and(|spec| spec.domain == Domain::Logarithm);
            let fits = |x: &f64| x.is_finite() || (log && *x == f64::NEG_INFINITY);
            assert!(values.iter().all(fits), "{name}: not all finite");
        }
        if !self.case.quick {
            return Ok(Completion::Completed);
        }
        let at = rows::sample(self.case.axis(self.op, "N").unwrap_or(1), 5);
        let some = operator.reference(inputs, Precision::F64, Rows::At(&at));
        assert_eq!(some.len(), reference.exact().len());
        for ((name, some), (_, all)) in some.into_iter().zip(reference.exact()) {
            let all = all.iter().map(|&x| x as f32).collect();
            let map =
                [(name.to_owned(), HostTensor::f32(part(name).unwrap().shape.clone(), all))].into_iter().collect();
            let picked = rows::pick(self.op.outputs, self.case.layout, &map, &at);
            let some: Vec<f32> = some.into_iter().map(|x| x as f32).collect();
            assert_eq!(picked.get(name).unwrap().to_f32(), some, "{name}");
        }
        Ok(Completion::Completed)
    }
}

fn of_case(op: &'static Op, case: Case) -> [Trial; 3] {
    let subject = Arc::new(Subject { op, case, made: OnceLock::new() });
    let trial = |group: &str, run: fn(&Subject) -> Result<Completion, Failed>| {
        let subject = subject.clone();
        Trial::ignorable_test(format!("{group}::{}::{}", op.name, subject.case), move || run(&subject))
    };
    [trial("gpu", Subject::on_the_gpu), trial("cpu", Subject::on_the_cpu), trial("definition", Subject::definition)]
}

/// Operands fit the kernels, and no less is moved and computed than is essential.
fn of_plan(op: &'static Op, case: Case) -> Trial {
    Trial::test(format!("plan::{}::{case}", op.name), move || {
        let operator = case.configure(op).unwrap();
        let program = operator.program(&Caps { f16: true, ..Caps::portable() }).unwrap();
        assert!(plan::operands_fit(&program));
        let (cost, essential) = (program.cost(), operator.cost());
        assert!(cost.bytes_read >= essential.bytes_read, "{cost:?} {essential:?}");
        assert!(cost.bytes_written >= essential.bytes_written, "{cost:?} {essential:?}");
        assert!(cost.flops >= essential.flops, "{cost:?} {essential:?}");
        assert!(cost.exps >= essential.exps, "{cost:?} {essential:?}");
        Ok(())
    })
}

fn no_two_cases_of_an_operator_have_the_same_name() {
    for op in all() {
        let mut names: Vec<_> = (op.cases)().into_iter().map(|c| c.name).collect();
        names.sort();
        names.windows(2).for_each(|w| assert_ne!(w[0], w[1], "{}", op.name));
    }
}
