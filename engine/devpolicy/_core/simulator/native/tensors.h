// A simulated tensor as the CPU's kernels see it, and a kernel's result as a tensor of the device.
//
// Owns the two translations and what is remembered between them: which storage stands for which. It knows no operator.
#pragma once

#include "allocator.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_strided.h>
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

// The tensors of one call.
class Aliases {
 public:
  explicit Aliases(const World& world) : world_(world) {}

  // The same memory as a tensor of the CPU; in a phantom world the same shape as a meta tensor.
  Tensor enter(const Tensor& tensor) {
    if (!is_simulated(tensor)) {
      // A number in a tensor of the CPU stays what it is: meta kernels read its value.
      const bool indices = world_.phantom && tensor.defined() && tensor.device().is_cpu() && tensor.dim() > 0;
      return indices ? as_meta(tensor) : tensor;
    }
    ledger_of(world_, tensor);
    auto* impl = tensor.unsafeGetTensorImpl();
    auto alias = at::detail::make_tensor<c10::TensorImpl>(
        storage_for(tensor.storage()), c10::DispatchKeySet(world_.phantom ? c10::DispatchKey::Meta : c10::DispatchKey::CPU),
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
    TORCH_CHECK_NOT_IMPLEMENTED(result.layout() == at::kStrided && !result.is_quantized(),
        "sparse, nested and quantized tensors on ", ledger->device(), " are not simulated");
    for (const auto& [original, alias] : tensors_) {
      if (alias.is_same(result)) return original;
    }
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

  // Arguments that the kernel resized (`out=`, `resize_`): the new memory becomes the tensor's own.
  void write_back() {
    for (const auto& [original, alias] : storages_) {
      auto* to = original.unsafeGetStorageImpl();
      const bool moved = world_.phantom ? alias.nbytes() != to->nbytes() : alias.data() != to->data();
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
  }

 private:
  // One alias for each storage, so that kernels which look for overlapping arguments find it.
  c10::Storage storage_for(const c10::Storage& original) {
    for (const auto& [known, alias] : storages_) {
      if (known.is_alias_of(original)) return alias;
    }
    const auto device = world_.phantom ? DeviceType::Meta : DeviceType::CPU;
    void* data = world_.phantom ? nullptr : original.unsafeGetStorageImpl()->mutable_data();
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
  c10::SmallVector<std::pair<Tensor, Tensor>, 6> tensors_;
  c10::SmallVector<std::pair<c10::Storage, c10::Storage>, 6> storages_;
};

}  // namespace devpolicy
