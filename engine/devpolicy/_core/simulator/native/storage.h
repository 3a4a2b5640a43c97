// Storages of simulated devices that grow and shrink, which torch's Python method does for its own backends only.
//
// Owns the change of a storage's size. A storage of no bytes gives its memory back, as sharded training does to it.
#pragma once

#include "tensors.h"

namespace devpolicy {

inline void resize_storage(const Tensor& whole, int64_t bytes) {
  auto* storage = whole.storage().unsafeGetStorageImpl();
  const auto device = whole.device();
  const auto kind = kind_of(device.type());
  const auto world = open_world(kind);
  ledger_of(*world, whole);
  const auto before = static_cast<int64_t>(storage->nbytes());
  if (bytes == before) return;
  c10::DataPtr memory(nullptr, device);
  if (bytes > 0) {
    const auto current = current_index(kind);
    current_index(kind) = device.index();
    try {
      memory = allocator_of(kind)->allocate(static_cast<size_t>(bytes));
    } catch (...) {
      current_index(kind) = current;
      throw;
    }
    current_index(kind) = current;
    if (!world->phantom && before > 0) std::memcpy(memory.get(), storage->data(), std::min(before, bytes));
  }
  storage->set_data_ptr_noswap(std::move(memory));
  storage->set_nbytes(static_cast<size_t>(bytes));
}

}  // namespace devpolicy
