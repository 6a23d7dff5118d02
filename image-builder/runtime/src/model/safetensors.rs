//! Reads the tensors of safetensors files, one file after the other, so that no more than one is in memory twice.

use std::path::PathBuf;

use candle_core::safetensors::SliceSafetensors;
use candle_core::{DType, Device, Tensor};

use super::load::{Error, Tensors};
use crate::kernel::matrix::Matrix;

/// All tensors of some files.
pub(super) fn read(paths: &[PathBuf]) -> Result<Tensors, Error> {
    let mut all = Tensors::default();
    for path in paths {
        let format = |source| Error::Format {
            path: path.clone(),
            source: Box::new(source),
        };
        let bytes = std::fs::read(path).map_err(|e| Error::Read(path.clone(), e))?;
        let file = SliceSafetensors::new(&bytes).map_err(format)?;
        for (name, _) in file.tensors() {
            let tensor = file.load(&name, &Device::Cpu).map_err(format)?;
            if tensor.rank() == 2 {
                let matrix = Matrix::from_tensor(&name, &tensor)?;
                all.matrices.insert(name, matrix);
            } else {
                let values = vector(&tensor).map_err(format)?;
                all.vectors.insert(name, values);
            }
        }
    }
    Ok(all)
}

/// All values, as 32-bit floats.
pub(super) fn vector(tensor: &Tensor) -> Result<Vec<f32>, candle_core::Error> {
    tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()
}
