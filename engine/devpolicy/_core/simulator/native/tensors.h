// A simulated tensor as the CPU's kernels see it, and a kernel's result as a tensor of the device.
//
// Owns the two translations and what is remembered between them: which storage stands for which. It knows no operator.
#pragma once

#include "allocator.h"

#include <ATen/NestedTensorImpl.h>
#include <ATen/SparseCsrTensorImpl.h>
#include <ATen/SparseTensorImpl.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_sparse_compressed_tensor_unsafe.h>
#include <ATen/ops/_sparse_coo_tensor_with_dims_and_tensors_native.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/DeviceGuard.h>
#include <c10/util/SmallVector.h>

namespace devpolicy {

using at::Tensor;

inline bool is_simulated(const Tensor& tensor) {
  return tensor.defined() && kind_of(tensor.device().type()) >= 0;
}

// The ledger of a simulated tensor's device. Raises for a tensor of a host that was left.
inline const std::shared_ptr<Ledger>& ledger_of(const World& world, const Tensor& tensor) {
  const auto device = tensor.device();
  const auto& ledger = ledger_of(world, kind_of(device.type()), device.index());
  const auto& data = tensor.storage().data_ptr();
  const bool ours = data.get_deleter() == release_held && data.get_context() != nullptr;
  TORCH_CHECK(!ours || static_cast<Held*>(data.get_context())->ledger == ledger,
      "a tensor on ", device, " belongs to a simulated host that was left: its simulation has ended");
  return ledger;
}

// torch's words for the one thing that mps cannot hold.
inline void require_supported(int kind, at::ScalarType dtype) {
  TORCH_CHECK_TYPE(kind != kMps || dtype != at::kDouble,
      "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
      "Please use float32 instead.");
}

inline at::SparseTensorImpl* coo(const Tensor& tensor) {
  return static_cast<at::SparseTensorImpl*>(tensor.unsafeGetTensorImpl());
}

inline at::SparseCsrTensorImpl* compressed(const Tensor& tensor) {
  return static_cast<at::SparseCsrTensorImpl*>(tensor.unsafeGetTensorImpl());
}

inline at::native::NestedTensorImpl* nested(const Tensor& tensor) {
  return static_cast<at::native::NestedTensorImpl*>(tensor.unsafeGetTensorImpl());
}

inline bool is_compressed(const Tensor& tensor) {
  const auto layout = tensor.layout();
  return layout == c10::kSparseCsr || layout == c10::kSparseCsc || layout == c10::kSparseBsr || layout == c10::kSparseBsc;
}

// A tensor that is made of others: sparse or nested.
inline bool is_composed(const Tensor& tensor) {
  constexpr c10::DispatchKeySet kComposed(
      {c10::DispatchKey::Sparse, c10::DispatchKey::SparseCsr, c10::DispatchKey::NestedTensor});
  return tensor.key_set().has_any(kComposed);
}

// Whether a phantom world keeps a tensor's numbers.
inline bool has_numbers(const Tensor& tensor) {
  if (!is_simulated(tensor)) return true;
  if (tensor.is_sparse()) return has_numbers(coo(tensor)->indices()) && has_numbers(coo(tensor)->values());
  if (is_compressed(tensor)) {
    const auto* impl = compressed(tensor);
    return has_numbers(impl->compressed_indices()) && has_numbers(impl->plain_indices()) && has_numbers(impl->values());
  }
  return has_numbers(tensor.unsafeGetTensorImpl()->unsafe_storage());
}

// The tensors of one call.
class Aliases {
 public:
  // With `shapes` only sizes are told, by meta tensors.
  explicit Aliases(const World& world, bool shapes = false) : world_(world), shapes_(shapes) {}

  // The same memory as a tensor of the CPU, or the same shape as a meta tensor.
  Tensor enter(const Tensor& tensor) {
    if (!is_simulated(tensor)) {
      // A number in a tensor of the CPU stays what it is: meta kernels read its value.
      const bool indices = shapes_ && tensor.defined() && tensor.device().is_cpu() && tensor.dim() > 0;
      return indices ? as_meta(tensor) : tensor;
    }
    if (is_composed(tensor)) return enter_composed(tensor);
    ledger_of(world_, tensor);
    auto* impl = tensor.unsafeGetTensorImpl();
    auto alias = at::detail::make_tensor<c10::TensorImpl>(
        storage_for(tensor.storage()), c10::DispatchKeySet(shapes_ ? c10::DispatchKey::Meta : c10::DispatchKey::CPU),
        tensor.dtype());
    auto* to = alias.unsafeGetTensorImpl();
    to->set_storage_offset(impl->storage_offset());
    to->set_sizes_and_strides(impl->sizes(), impl->strides());
    if (impl->is_wrapped_number()) to->set_wrapped_number(true);
    if (tensor.is_conj()) to->_set_conj(true);
    if (tensor.is_neg()) to->_set_neg(true);
    tensors_.push_back({tensor, alias});
    return alias;
  }

  // A result as a tensor on the ledger's device: an argument itself, a view of one, or new memory, which is charged.
  Tensor leave(const Tensor& result, int kind, const std::shared_ptr<Ledger>& ledger) {
    if (!result.defined() || is_simulated(result)) return result;
    if (!result.device().is_cpu() && !result.device().is_meta()) return result;
    for (const auto& [original, alias] : tensors_) {
      if (alias.is_same(result)) return original;
    }
    for (const auto& [original, alias, parts] : composed_) {
      if (alias.is_same(result)) return original;
    }
    if (is_composed(result)) return leave_composed(result, kind, ledger);
    TORCH_CHECK_NOT_IMPLEMENTED(result.layout() == at::kStrided, "tensors of the layout ", result.layout(), " are the "
        "CPU's, and not on ", ledger->device());
    TORCH_CHECK_NOT_IMPLEMENTED(!result.is_quantized(),
        "quantized tensors on ", ledger->device(), " are not simulated: keep them on the CPU, or use dense ones");
    require_supported(kind, result.scalar_type());
    auto tensor = at::detail::make_tensor<c10::TensorImpl>(
        storage_on_device(result.storage(), ledger), c10::DispatchKeySet(kKeys[kind]), result.dtype());
    auto* to = tensor.unsafeGetTensorImpl();
    to->set_storage_offset(result.storage_offset());
    to->set_sizes_and_strides(result.sizes(), result.strides());
    if (result.is_conj()) to->_set_conj(true);
    if (result.is_neg()) to->_set_neg(true);
    return tensor;
  }

  // Whether every result is one that a phantom world keeps with its numbers.
  bool is_kept(const Tensor& result) const {
    return !result.defined() || (!is_composed(result) && result.storage().nbytes() <= kKeptBytes);
  }

  // Arguments that the kernel resized (`out=`, `resize_`): the new memory becomes the tensor's own.
  void write_back() {
    for (const auto& [original, alias] : storages_) {
      auto* to = original.unsafeGetStorageImpl();
      const bool moved = shapes_ ? alias.nbytes() != to->nbytes() : alias.data() != to->data();
      if (moved || alias.nbytes() != to->nbytes()) {
        const auto device = original.device();
        const auto& ledger = ledger_of(world_, kind_of(device.type()), device.index());
        // The name of the old memory is kept until the new is charged, as on a device, where both exist while copying.
        to->set_data_ptr_noswap(adopt_memory(world_, ledger, alias));
        to->set_nbytes(alias.nbytes());
      }
    }
    for (const auto& [original, alias] : tensors_) {
      auto* to = original.unsafeGetTensorImpl();
      if (alias.sizes() != original.sizes() || alias.strides() != original.strides()) {
        to->set_sizes_and_strides(alias.sizes(), alias.strides());
      }
    }
    for (const auto& [original, alias, parts] : composed_) {
      if (original.is_sparse()) write_back_coo(original, alias, parts);
    }
  }

 private:
  using Parts = std::pair<const c10::TensorImpl*, const c10::TensorImpl*>;
  struct Composed { Tensor original, alias; Parts parts; };

  static Parts parts_of(const Tensor& alias) {
    if (!alias.is_sparse()) return {};
    return {coo(alias)->indices().unsafeGetTensorImpl(), coo(alias)->values().unsafeGetTensorImpl()};
  }

  Tensor enter_composed(const Tensor& tensor) {
    TORCH_INTERNAL_ASSERT(!shapes_, "a sparse or nested tensor has no meta tensor");
    auto alias = compose(tensor, c10::Device(DeviceType::CPU), [&](const Tensor& part) { return enter(part); });
    composed_.push_back({tensor, alias, parts_of(alias)});
    return alias;
  }

  Tensor leave_composed(const Tensor& result, int kind, const std::shared_ptr<Ledger>& ledger) {
    return compose(result, ledger->device(), [&](const Tensor& part) { return leave(part, kind, ledger); });
  }

  // A tensor of the same layout on another device, with its parts as `move` gives them.
  template <class Move>
  static Tensor compose(const Tensor& of, c10::Device device, const Move& move) {
    at::AutoDispatchBelowADInplaceOrView below;
    const c10::DeviceGuard guard(device);  // torch takes the current one for a sparse tensor before it has values
    if (of.is_nested()) {
      const auto* impl = nested(of);
      return at::detail::make_tensor<at::native::NestedTensorImpl>(
          move(impl->get_unsafe_storage_as_tensor()), impl->get_nested_sizes(), impl->get_nested_strides(),
          impl->get_storage_offsets());
    }
    const auto sizes = of.unsafeGetTensorImpl()->sym_sizes();
    if (of.is_sparse()) {
      const auto* impl = coo(of);
      return at::native::new_with_dims_and_tensor_sparse_symint(
          impl->sparse_dim(), impl->dense_dim(), sizes, move(impl->indices()), move(impl->values()), of.scalar_type(),
          of.layout(), device, false, impl->coalesced());
    }
    const auto* impl = compressed(of);
    return at::_sparse_compressed_tensor_unsafe_symint(move(impl->compressed_indices()), move(impl->plain_indices()),
                                                       move(impl->values()), sizes, of.scalar_type(), of.layout(),
                                                       device, false);
  }

  void write_back_coo(const Tensor& original, const Tensor& alias, const Parts& parts) {
    auto* to = coo(original);
    auto* from = coo(alias);
    if (parts_of(alias) != parts || alias.sizes() != original.sizes()) {
      const auto device = original.device();
      const int kind = kind_of(device.type());
      const auto& ledger = ledger_of(world_, kind, device.index());
      to->raw_resize_(from->sparse_dim(), from->dense_dim(), alias.sizes());
      to->set_indices_and_values_unsafe(leave(from->indices(), kind, ledger), leave(from->values(), kind, ledger));
    }
    to->set_coalesced(from->coalesced());
  }

  // One alias for each storage, so that kernels which look for overlapping arguments find it.
  c10::Storage storage_for(const c10::Storage& original) {
    for (const auto& [known, alias] : storages_) {
      if (known.is_alias_of(original)) return alias;
    }
    const auto device = shapes_ ? DeviceType::Meta : DeviceType::CPU;
    void* data = shapes_ ? nullptr : original.unsafeGetStorageImpl()->mutable_data();
    c10::Storage alias(c10::Storage::use_byte_size_t(), original.nbytes(), c10::DataPtr(data, c10::Device(device)),
                       c10::GetAllocator(device), /*resizable=*/true);
    storages_.push_back({original, alias});
    return alias;
  }

  c10::Storage storage_on_device(const c10::Storage& result, const std::shared_ptr<Ledger>& ledger) {
    for (const auto& [original, alias] : storages_) {
      if (alias.is_alias_of(result)) return original;
    }
    const auto bytes = result.nbytes();
    c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, adopt_memory(world_, ledger, result),
                         allocator_of(kind_of(ledger->device().type())), /*resizable=*/true);
    storages_.push_back({storage, result});
    return storage;
  }

  static Tensor as_meta(const Tensor& tensor) {
    return at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options().device(at::kMeta));
  }

  const World& world_;
  const bool shapes_;
  c10::SmallVector<std::pair<Tensor, Tensor>, 6> tensors_;
  c10::SmallVector<std::pair<c10::Storage, c10::Storage>, 6> storages_;
  c10::SmallVector<Composed, 0> composed_;
};

}  // namespace devpolicy
