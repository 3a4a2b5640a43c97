// Sparse, nested and quantized tensors: which kernels they have beside the fallback.
//
// Owns the kernels that read or change what such a tensor is made of, which torch's GPU builds share with the CPU's.
#pragma once

#include "fallback.h"

#include <ATen/native/TensorFactories.h>
#include <ATen/ops/_coalesced_native.h>
#include <ATen/ops/_indices_native.h>
#include <ATen/ops/_nested_tensor_size_native.h>
#include <ATen/ops/_nested_tensor_storage_offsets_native.h>
#include <ATen/ops/_nested_tensor_strides_native.h>
#include <ATen/ops/_nested_view_from_buffer_native.h>
#include <ATen/ops/_nnz_native.h>
#include <ATen/ops/_sparse_coo_tensor_with_dims_native.h>
#include <ATen/ops/_values_native.h>
#include <ATen/ops/copy_native.h>
#include <ATen/ops/dense_dim_native.h>
#include <ATen/ops/empty_native.h>
#include <ATen/ops/indices_native.h>
#include <ATen/ops/is_coalesced_native.h>
#include <ATen/ops/sparse_dim_native.h>
#include <ATen/ops/values_native.h>
#include <torch/library.h>

namespace devpolicy {

inline bool is_composite(const c10::OperatorHandle& op) {
  return op.hasKernelForDispatchKey(c10::DispatchKey::CompositeExplicitAutograd) ||
      op.hasKernelForDispatchKey(c10::DispatchKey::CompositeExplicitAutogradNonFunctional) ||
      op.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutogradNestedTensor) ||
      op.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd);
}

template <class Do>
void for_every_operator(const Do& act) {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    if (name.name.rfind("aten::", 0) != 0) continue;
    const auto op = dispatcher.findOp(name);
    if (op && op->hasSchema()) act(name.name.substr(6) + (name.overload_name.empty() ? "" : "." + name.overload_name), *op);
  }
}

// The kernels that make sparse tensors take the current device, which torch's dispatch sets in a GPU's build.
inline c10::OptionalDeviceGuard on(std::optional<c10::Device> device) { return c10::OptionalDeviceGuard(device); }

inline Tensor empty_coo(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout> layout,
                        std::optional<c10::Device> device, std::optional<bool> pinned,
                        std::optional<at::MemoryFormat> format) {
  const auto guard = on(device);
  return at::native::empty_sparse_symint(size, dtype, layout, device, pinned, format);
}

inline Tensor coo_with_dims(int64_t sparse_dim, int64_t dense_dim, at::IntArrayRef size,
                            std::optional<at::ScalarType> dtype, std::optional<at::Layout> layout,
                            std::optional<c10::Device> device, std::optional<bool> pinned) {
  const auto guard = on(device);
  return at::native::new_with_dims_sparse(sparse_dim, dense_dim, size, dtype, layout, device, pinned);
}

inline Tensor coo_of_tensors(int64_t sparse_dim, int64_t dense_dim, c10::SymIntArrayRef size, const Tensor& indices,
                             const Tensor& values, std::optional<at::ScalarType> dtype,
                             std::optional<at::Layout> layout, std::optional<c10::Device> device,
                             std::optional<bool> pinned, std::optional<bool> coalesced) {
  const auto guard = on(values.device());
  return at::native::new_with_dims_and_tensor_sparse_symint(sparse_dim, dense_dim, size, indices, values, dtype, layout,
                                                            device, pinned, coalesced);
}

// A sparse tensor is copied by its parts, between devices and on one.
inline Tensor& copy_coo_(Tensor& self, const Tensor& source, bool non_blocking) {
  TORCH_CHECK(self.is_sparse() && source.is_sparse(), "copy_() between dense and sparse Tensors is not implemented! "
              "Found self type = ", self.toString(), " and src type = ", source.toString());
  if (self.is_same(source)) return self;
  Below below;
  auto* to = coo(self);
  const auto* from = coo(source);
  const auto copy = [&](const Tensor& part, at::ScalarType type) {
    return part.to(part.options().device(self.device()).dtype(type), non_blocking, /*copy=*/true);
  };
  to->raw_resize_(from->sparse_dim(), from->dense_dim(), source.sizes());
  to->set_indices_and_values_unsafe(copy(from->indices(), at::kLong), copy(from->values(), self.scalar_type()));
  to->set_coalesced(from->coalesced());
  return self;
}

// What no GPU has; the CPU's kernel also looks whether its arguments require gradients, which aliases do not.
template <int kind>
void refuse_missing(const c10::OperatorHandle& op, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "Could not run '", op.schema().operator_name(), "' with arguments from the '",
                              kNames[kind], "' backend: torch has no kernel of it for a GPU.");
}

inline void register_own(torch::Library& aten, Layout layout, std::unordered_set<std::string>& own) {
  const auto impl = [&](const char* name, auto&& function) {
    own.insert(name);
    aten.impl(name, function);
  };
  if (layout == kCoo) {
    impl("empty.memory_format", empty_coo);
    impl("_sparse_coo_tensor_with_dims", coo_with_dims);
    impl("_sparse_coo_tensor_with_dims_and_tensors", coo_of_tensors);
    impl("sparse_dim", at::native::sparse_dim_sparse);
    impl("dense_dim", at::native::dense_dim_sparse);
    impl("_nnz", at::native::_nnz_sparse);
    impl("is_coalesced", at::native::is_coalesced_sparse);
    impl("_coalesced_", at::native::_coalesced_sparse_);
    impl("_indices", at::native::_indices_sparse);
    impl("_values", at::native::_values_sparse);
    impl("indices", at::native::indices_sparse);
    impl("values", at::native::values_sparse);
    impl("copy_", copy_coo_);
  } else if (layout == kCompressed) {
    impl("empty.memory_format", at::native::empty_sparse_compressed_symint);
    impl("copy_", at::native::copy_sparse_compressed_);
  } else {
    // Sizes and offsets are the CPU's in every build.
    impl("_nested_tensor_size", at::native::_nested_tensor_size);
    impl("_nested_tensor_strides", at::native::_nested_tensor_strides);
    impl("_nested_tensor_storage_offsets", at::native::_nested_tensor_storage_offsets);
    impl("copy_", at::native::copy_nested_);
  }
}

// Everything else of a layout is the CPU's kernel for it, also where a composite one would come first.
template <int kind, Layout layout, class Make>
void register_layout(const Make& library, c10::DispatchKey key) {
  const auto rest = [] { return torch::CppFunction::makeFromBoxedFunction<&fallback<kind, layout>>(); };
  library("_", key).fallback(rest());
  auto& aten = library("aten", key);
  std::unordered_set<std::string> own;
  register_own(aten, layout, own);
  if (layout == kCompressed) {
    for (const auto* name : {"_sparse_mm_reduce_impl", "_sparse_mm_reduce_impl_backward"}) {
      own.insert(name);
      aten.impl(name, torch::CppFunction::makeFromBoxedFunction<&refuse_missing<kind>>());
    }
  }
  for_every_operator([&](const std::string& name, const c10::OperatorHandle& op) {
    if (own.count(name) || !is_composite(op) || !op.hasKernelForDispatchKey(kRunners[layout])) return;
    aten.impl(name.c_str(), rest());
  });
}

// Torch's own words would be that there is no such backend.
template <int kind>
void refuse_quantized(const c10::OperatorHandle& op, torch::jit::Stack*) {
  open_world(kind);
  TORCH_CHECK_NOT_IMPLEMENTED(false, "quantized tensors on ", kTypes[kind], " are not simulated ('",
                              op.schema().operator_name(), "'): keep them on the CPU, or use dense ones");
}

}  // namespace devpolicy
