//! A weight matrix of any width, and products with it on all threads of the current pool.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use super::activation::{self, Block};
use super::packed::{GROUP, Packed};
use super::{dense, dense::Element};

/// Why a tensor could not become a matrix.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its shape is not that of a matrix.
    #[error("tensor {name} has {dimensions} dimensions where a matrix has 2")]
    Shape {
        /// Name in the file.
        name: String,
        /// How many it has.
        dimensions: usize,
    },
    /// Its values could not be read.
    #[error("reading the values of tensor {name}")]
    Read {
        /// Name in the file.
        name: String,
        /// What the reader said.
        #[source]
        source: Box<candle_core::Error>,
    },
}

#[derive(Clone, Debug)]
enum Values {
    Single(Vec<f32>),
    Half(Vec<f16>),
    Brain(Vec<bf16>),
    Packed(Packed),
}

/// Rows of weights; a product gives one value for each row.
#[derive(Clone, Debug)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    values: Values,
}

/// Inputs of a product: `columns` values for each token, and the same in 8 bits once a quantised matrix asks.
#[derive(Debug)]
pub struct Input<'a> {
    values: &'a [f32],
    columns: usize,
    blocks: std::sync::OnceLock<Vec<Block>>,
}

impl<'a> Input<'a> {
    /// Inputs of `columns` values each.
    #[must_use]
    pub fn new(values: &'a [f32], columns: usize) -> Self {
        Self {
            values,
            columns,
            blocks: std::sync::OnceLock::new(),
        }
    }

    fn tokens(&self) -> usize {
        self.values.len() / self.columns.max(1)
    }

    fn blocks(&self) -> &[Block] {
        self.blocks
            .get_or_init(|| activation::quantise(self.values, self.columns))
    }
}

impl Matrix {
    /// A matrix of 32-bit floats, row after row.
    #[must_use]
    pub fn from_rows(values: Vec<f32>, columns: usize) -> Self {
        Self {
            rows: values.len() / columns.max(1),
            columns,
            values: Values::Single(values),
        }
    }

    /// Keeps the width of the tensor, or widens what is neither 16 nor 32 bits.
    ///
    /// # Errors
    /// [`Error`] if it is no matrix or its values cannot be read.
    pub fn from_tensor(name: &str, tensor: &Tensor) -> Result<Self, Error> {
        let (rows, columns) = shape_of(name, tensor.dims())?;
        let read = |source| Error::Read {
            name: name.to_owned(),
            source: Box::new(source),
        };
        let flat = tensor.flatten_all().map_err(read)?;
        let values = match tensor.dtype() {
            DType::F16 => Values::Half(flat.to_vec1().map_err(read)?),
            DType::BF16 => Values::Brain(flat.to_vec1().map_err(read)?),
            _ => {
                let wide = flat.to_dtype(DType::F32).map_err(read)?;
                Values::Single(wide.to_vec1().map_err(read)?)
            }
        };
        Ok(Self {
            rows,
            columns,
            values,
        })
    }

    /// Takes rows in the order that `order` tells for each new row, in the bits of the file where it is computed with
    /// them, else as 16-bit floats.
    ///
    /// # Errors
    /// [`Error`] if it is no matrix or its values cannot be read.
    pub fn from_quantised(
        name: &str,
        tensor: &QTensor,
        order: impl Fn(usize) -> usize,
    ) -> Result<Self, Error> {
        let (rows, columns) = shape_of(name, tensor.shape().dims())?;
        let read = |source| Error::Read {
            name: name.to_owned(),
            source: Box::new(source),
        };
        let raw = tensor.data().map_err(read)?;
        let kind = tensor.dtype();
        if let Some(packed) = Packed::from_raw(kind, &raw, rows, columns, &order) {
            return Ok(Self {
                rows,
                columns,
                values: Values::Packed(packed),
            });
        }
        let wide = tensor.dequantize(&Device::Cpu).map_err(read)?;
        let wide: Vec<f32> = wide.flatten_all().and_then(|t| t.to_vec1()).map_err(read)?;
        let mut ordered = Vec::with_capacity(wide.len());
        for row in 0..rows {
            let at = order(row) * columns;
            ordered.extend_from_slice(wide.get(at..at + columns).unwrap_or_default());
        }
        let values = match kind {
            GgmlDType::F32 => Values::Single(ordered),
            GgmlDType::BF16 => Values::Brain(ordered.into_iter().map(bf16::from_f32).collect()),
            _ => Values::Half(ordered.into_iter().map(f16::from_f32).collect()),
        };
        Ok(Self {
            rows,
            columns,
            values,
        })
    }

    /// Values of one product.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs of one product.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Cuts a matrix of plain floats into parts of so many rows each; a packed one is cut at multiples of eight.
    /// Nothing, if the rows do not add up.
    #[must_use]
    pub fn split(self, parts: &[usize]) -> Option<Vec<Self>> {
        if parts.iter().sum::<usize>() != self.rows {
            return None;
        }
        let mut all = Vec::with_capacity(parts.len());
        let mut first = 0;
        for rows in parts {
            let span = first * self.columns..(first + rows) * self.columns;
            let values = match &self.values {
                Values::Single(values) => Values::Single(values.get(span)?.to_vec()),
                Values::Half(values) => Values::Half(values.get(span)?.to_vec()),
                Values::Brain(values) => Values::Brain(values.get(span)?.to_vec()),
                Values::Packed(packed) => Values::Packed(packed.slice(first, *rows)?),
            };
            all.push(Self {
                rows: *rows,
                columns: self.columns,
                values,
            });
            first += rows;
        }
        Some(all)
    }

    /// Appends one row as floats.
    pub fn row(&self, row: usize, out: &mut Vec<f32>) {
        let span = row * self.columns..(row + 1) * self.columns;
        match &self.values {
            Values::Single(values) => out.extend(values.get(span).unwrap_or_default()),
            Values::Half(values) => extend(out, values.get(span)),
            Values::Brain(values) => extend(out, values.get(span)),
            Values::Packed(packed) => packed.row(row, out),
        }
    }

    fn part(&self, first: usize, input: &Input<'_>, outs: &mut [&mut [f32]]) {
        let rows = outs.first().map_or(0, |out| out.len());
        let span = first * self.columns..(first + rows) * self.columns;
        match &self.values {
            Values::Single(values) => {
                let weights = values.get(span).unwrap_or_default();
                dense::multiply(weights, self.columns, input.values, outs);
            }
            Values::Half(values) => {
                let weights = values.get(span).unwrap_or_default();
                dense::multiply(weights, self.columns, input.values, outs);
            }
            Values::Brain(values) => {
                let weights = values.get(span).unwrap_or_default();
                dense::multiply(weights, self.columns, input.values, outs);
            }
            Values::Packed(packed) => packed.multiply(first / GROUP, input.blocks(), outs),
        }
    }

    /// The product with every token, token after token.
    #[must_use]
    pub fn multiply(&self, input: &Input<'_>) -> Vec<f32> {
        let [out] = multiply_all([self], input);
        out
    }
}

fn extend<E: Element>(out: &mut Vec<f32>, values: Option<&[E]>) {
    out.extend(values.unwrap_or_default().iter().map(|value| value.widen()));
}

fn shape_of(name: &str, dimensions: &[usize]) -> Result<(usize, usize), Error> {
    match dimensions {
        [rows, columns] => Ok((*rows, *columns)),
        other => Err(Error::Shape {
            name: name.to_owned(),
            dimensions: other.len(),
        }),
    }
}

struct Task<'a, 'b> {
    matrix: &'a Matrix,
    first: usize,
    outs: Vec<&'b mut [f32]>,
}

/// Products of several matrices with one input, in one go over the threads. All must have the input's columns.
pub fn multiply_all<const N: usize>(matrices: [&Matrix; N], input: &Input<'_>) -> [Vec<f32>; N] {
    let tokens = input.tokens();
    // A packed matrix reads the 8-bit inputs; they are made here, before the threads divide.
    if matrices
        .iter()
        .any(|m| matches!(m.values, Values::Packed(_)))
    {
        input.blocks();
    }
    let mut results = matrices.map(|matrix| vec![0.0; matrix.rows * tokens]);
    let rows: usize = matrices.iter().map(|matrix| matrix.rows).sum();
    // Four parts for each thread: enough for one that is late to be helped, few enough to cost little.
    let share = rows.div_ceil(rayon::current_num_threads() * 4);
    let share = share.next_multiple_of(GROUP).max(GROUP);
    let mut tasks: Vec<Task<'_, '_>> = Vec::new();
    for (matrix, result) in matrices.iter().zip(&mut results) {
        let count = matrix.rows.div_ceil(share);
        let start = tasks.len();
        tasks.extend((0..count).map(|part| Task {
            matrix,
            first: part * share,
            outs: Vec::with_capacity(tokens),
        }));
        for token in result.chunks_mut(matrix.rows.max(1)) {
            let parts = tasks.iter_mut().skip(start);
            for (task, out) in parts.zip(token.chunks_mut(share)) {
                task.outs.push(out);
            }
        }
    }
    tasks
        .into_par_iter()
        .with_max_len(1)
        .for_each(|mut task| task.matrix.part(task.first, input, &mut task.outs));
    results
}
