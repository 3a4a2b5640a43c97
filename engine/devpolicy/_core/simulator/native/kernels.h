// Operators that the fallback cannot serve: those that make memory, name it, or move it between devices; and those
// where a GPU takes another way than a CPU, so that the numbers would differ.
//
// Owns these kernels and the registration of everything with torch's dispatcher.
#pragma once

#include "fallback.h"
#include "attention.h"
#include "layouts.h"
#include "recurrent.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/_local_scalar_dense_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/view_native.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <ATen/core/op_registration/op_registration.h>
#include <torch/library.h>

namespace devpolicy {

// -- memory

// Makes the device of a factory's argument current while it allocates.
struct On {
  On(int kind, std::optional<c10::Device> device) : kind(kind), before(current_index(kind)) {
    if (device && device->has_index()) set_current(kind, device->index());
    else set_current(kind, before);
  }
  ~On() { current_index(kind) = before; }
  int kind;
  DeviceIndex before;
};

inline void require_unpinned(std::optional<bool> pinned) {
  TORCH_CHECK(!pinned.value_or(false), "Only dense CPU tensors can be pinned");
}

template <int kind>
Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<c10::Device> device, std::optional<bool> pinned, std::optional<at::MemoryFormat> format) {
  require_unpinned(pinned);
  const auto type = c10::dtype_or_default(dtype);
  require_supported(kind, type);
  open_world(kind);
  On on(kind, device);
  return at::detail::empty_generic(size, allocator_of(kind), c10::DispatchKeySet(kKeys[kind]), type, format);
}

template <int kind>
Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<c10::Device> device, std::optional<bool> pinned) {
  require_unpinned(pinned);
  const auto type = c10::dtype_or_default(dtype);
  require_supported(kind, type);
  open_world(kind);
  On on(kind, device);
  return at::detail::empty_strided_generic(size, stride, allocator_of(kind), c10::DispatchKeySet(kKeys[kind]), type);
}

// Zeros that take no memory, as autograd makes them; torch makes real ones of them where an operator needs that.
template <int kind>
Tensor efficient_zeros(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                       std::optional<c10::Device> device, std::optional<bool>) {
  const auto where = device && device->has_index() ? *device : c10::Device(kTypes[kind], current_index(kind));
  at::native::ZeroTensorAllocator nothing(where);
  const auto keys = c10::DispatchKeySet(kKeys[kind]) | c10::DispatchKeySet(c10::DispatchKey::ZeroTensor);
  return at::detail::empty_generic(size, &nothing, keys, c10::dtype_or_default(dtype), std::nullopt);
}

// -- the same memory under other sizes

inline Tensor as_strided(const Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                         std::optional<c10::SymInt> offset) {
  const auto begin = offset ? std::optional<int64_t>(offset->guard_int(__FILE__, __LINE__)) : std::nullopt;
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), begin);
}

inline Tensor view(const Tensor& self, c10::SymIntArrayRef size) {
  return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
}

inline Tensor reshape_alias(const Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

inline Tensor& set_storage(Tensor& self, c10::Storage source, c10::SymInt offset, c10::SymIntArrayRef size,
                           c10::SymIntArrayRef stride) {
  TORCH_CHECK(source.device() == self.device(), "Attempted to set the storage of a tensor on device \"", self.device(),
              "\" to a storage on different device \"", source.device(),
              "\".  This is no longer allowed; the devices must match.");
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_storage_offset(offset.expect_int());
  const auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  if (stride.empty() && !sizes.empty()) impl->set_sizes_contiguous(sizes);
  else impl->set_sizes_and_strides(sizes, C10_AS_INTARRAYREF_SLOW(stride));
  return self;
}

inline Tensor& set_whole_storage(Tensor& self, c10::Storage source) {
  const int64_t count = static_cast<int64_t>(source.nbytes() / self.dtype().itemsize());
  return set_storage(self, std::move(source), 0, c10::SymIntArrayRef({c10::SymInt(count)}), {});
}

inline Tensor& set_tensor(Tensor& self, const Tensor& source) {
  const auto size = source.sym_sizes().vec();
  const auto stride = source.sym_strides().vec();
  return set_storage(self, source.storage(), source.sym_storage_offset(), size, stride);
}

inline Tensor& set_nothing(Tensor& self) {
  c10::Storage none(c10::Storage::use_byte_size_t(), 0, allocator_of(kind_of(self.device().type())), true);
  none.unsafeGetStorageImpl()->set_data_ptr_noswap(c10::DataPtr(nullptr, self.device()));
  return set_storage(self, std::move(none), 0, c10::SymIntArrayRef({c10::SymInt(0)}), {});
}

// More or less memory under the same storage. The old is kept until the new is charged, as on a device.
inline void resize_storage(const c10::Storage& storage, int64_t bytes) {
  auto* impl = storage.unsafeGetStorageImpl();
  TORCH_CHECK(impl->resizable(), "Trying to resize storage that is not resizable");
  TORCH_CHECK(bytes >= 0, "storage size must be nonnegative");
  const auto device = storage.device();
  const int kind = kind_of(device.type());
  const auto world = open_world(kind);
  On on(kind, device);
  auto made = bytes == 0 ? c10::DataPtr(nullptr, device) : allocator_of(kind)->allocate(static_cast<size_t>(bytes));
  const auto kept = std::min<size_t>(storage.nbytes(), static_cast<size_t>(bytes));
  if (kept > 0) allocator_of(kind)->copy_data(made.get(), storage.data(), kept);
  impl->set_data_ptr_noswap(std::move(made));
  impl->set_nbytes(static_cast<size_t>(bytes));
}

// -- between devices, and out of them

template <int kind>
Tensor& copy_(Tensor& self, const Tensor& source, bool non_blocking) {
  const auto world = open_world(kind);
  TORCH_CHECK_NOT_IMPLEMENTED(!source.is_meta(), "Cannot copy out of meta tensor; no data!");
  if (self.is_meta()) return self;
  if (source._is_zerotensor()) return self.zero_();
  if (is_simulated(self)) ledger_of(*world, self)->operate("aten::copy_");
  if (kind == kCuda && !non_blocking && self.device().type() != source.device().type()) waits();
  if (is_simulated(source) && self.device() != source.device()) {
    ledger_of(*world, source)->send(static_cast<int64_t>(source.nbytes()));
  }
  if (is_simulated(self) && self.device() != source.device()) {
    ledger_of(*world, self)->receive(static_cast<int64_t>(source.nbytes()));
  }
  if (world->phantom && !(has_numbers(self) && has_numbers(source))) {
    TORCH_CHECK_NOT_IMPLEMENTED(is_simulated(self) || self.nbytes() <= kKeptBytes, "Cannot copy out of phantom tensor "
                                "on ", source.device(), "; no data! (the host is simulated at depth `phantom`, where "
                                "large tensors have sizes only)");
    at::infer_size(self.sizes(), source.sizes());  // sizes that do not fit are an error here too
    if (has_numbers(self)) {
      Below below;
      Aliases(*world).enter(self).zero_();
    }
    return self;
  }
  Aliases aliases(*world);
  auto to = aliases.enter(self);
  const auto from = aliases.enter(source);
  Below below;
  to.copy_(from, false);
  return self;
}

template <int kind>
at::Scalar local_scalar_dense(const Tensor& self) {
  const auto world = open_world(kind);
  ledger_of(*world, self)->operate("aten::_local_scalar_dense");
  if (kind == kCuda) waits();
  // A phantom's number is 0: a branch is taken, and always the same one.
  if (!has_numbers(self)) return at::native::_local_scalar_dense_cpu(at::zeros({}, self.options().device(at::kCPU)));
  return at::native::_local_scalar_dense_cpu(Aliases(*world).enter(self));
}

inline void record_stream(Tensor&, c10::Stream) {}  // memory is free as soon as its tensor is: nothing runs later

// -- where a GPU takes another way

// The fallback for one operator, called by name.
template <int kind>
Tensor boxed(const char* name, const Tensor& first, std::initializer_list<c10::IValue> rest) {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
  torch::jit::Stack stack{first};
  stack.insert(stack.end(), rest);
  fallback<kind, kDense>(op, &stack);
  return stack.back().toTensor();
}

// A GPU counts integers too; the CPU only floating point. Counts below 2**53 are the same in both.
template <int kind>
Tensor histc(const Tensor& self, int64_t bins, const at::Scalar& low, const at::Scalar& high) {
  const auto count = [&](const Tensor& numbers) { return boxed<kind>("aten::histc", numbers, {bins, low, high}); };
  if (at::isFloatingType(self.scalar_type())) return count(self);
  return count(self.to(kind == kMps ? at::kFloat : at::kDouble)).to(self.scalar_type());
}

// A GPU takes the softmax of half precision in float32 within one kernel; on a CPU the conversion is a step.
template <int kind>
Tensor softmax(const Tensor& self, int64_t dim, bool half_to_float) {
  return boxed<kind>("aten::_softmax", half_to_float ? self.to(at::kFloat) : self, {dim, false});
}

template <int kind>
Tensor log_softmax(const Tensor& self, int64_t dim, bool half_to_float) {
  return boxed<kind>("aten::_log_softmax", half_to_float ? self.to(at::kFloat) : self, {dim, false});
}

template <int kind>
Tensor softmax_backward(const Tensor& grad, const Tensor& output, int64_t dim, at::ScalarType input) {
  return boxed<kind>("aten::_softmax_backward_data", grad, {output, dim, grad.scalar_type()}).to(input);
}

template <int kind>
Tensor log_softmax_backward(const Tensor& grad, const Tensor& output, int64_t dim, at::ScalarType input) {
  return boxed<kind>("aten::_log_softmax_backward_data", grad, {output, dim, grad.scalar_type()}).to(input);
}

// A GPU fuses dropout; this is what the CPU does, step by step.
inline std::tuple<Tensor, Tensor> native_dropout(const Tensor& self, double p, std::optional<bool> train) {
  if (self.numel() == 0 || !train.value_or(true)) {
    return {self.clone(), at::empty_like(self, self.options().dtype(at::kBool)).fill_(true)};
  }
  auto noise = at::empty_like(self).bernoulli_(1 - p);
  const auto mask = noise.to(at::kBool);
  if (p < 1) noise.div_(1 - p);
  return {self.mul(noise), mask};
}

inline Tensor native_dropout_backward(const Tensor& grad, const Tensor& mask, double scale) {
  return scale == 0 ? at::zeros_like(grad) : grad.mul(mask.to(grad.scalar_type()).div_(1 / scale));
}

// Neither cuDNN nor MIOpen is there.
inline bool no_ctc_loss(const Tensor&, const Tensor&, at::IntArrayRef, at::IntArrayRef, int64_t) { return false; }
inline bool no_ctc_loss_of_tensors(const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t) {
  return false;
}

// Half precision is cuFFT's for powers of two; a CPU has none.
inline void require_powers_of_two(const Tensor& self, at::IntArrayRef dims) {
  std::vector<int64_t> sizes;
  for (const auto dim : dims) sizes.push_back(self.size(dim));
  for (const auto size : sizes) {
    TORCH_CHECK((size & (size - 1)) == 0, "cuFFT only supports dimensions whose sizes are powers of two when computing "
                "in half precision, but got a signal size of", at::IntArrayRef(sizes));
  }
}

template <int kind>
Tensor fft_r2c(const Tensor& self, at::IntArrayRef dims, int64_t normalization, bool onesided) {
  const bool half = self.scalar_type() == at::kHalf;
  if (half) require_powers_of_two(self, dims);
  auto found = boxed<kind>("aten::_fft_r2c", half ? self.to(at::kFloat) : self, {dims, normalization, onesided});
  return half ? found.to(at::kComplexHalf) : found;
}

template <int kind>
Tensor fft_c2c(const Tensor& self, at::IntArrayRef dims, int64_t normalization, bool forward) {
  const bool half = self.scalar_type() == at::kComplexHalf;
  if (half) require_powers_of_two(self, dims);
  auto found = boxed<kind>("aten::_fft_c2c", half ? self.to(at::kComplexFloat) : self, {dims, normalization, forward});
  return half ? found.to(at::kComplexHalf) : found;
}

template <int kind>
Tensor fft_c2r(const Tensor& self, at::IntArrayRef dims, int64_t normalization, int64_t last) {
  const bool half = self.scalar_type() == at::kComplexHalf;
  auto found = boxed<kind>("aten::_fft_c2r", half ? self.to(at::kComplexFloat) : self, {dims, normalization, last});
  return half ? found.to(at::kHalf) : found;
}

// Products of halves with results in float32, which are accelerators' alone: the CPU computes all of it in float32.

inline void require_result(const Tensor& self, const Tensor& other, at::ScalarType result) {
  const bool half = self.scalar_type() == at::kHalf || self.scalar_type() == at::kBFloat16;
  TORCH_CHECK(self.scalar_type() == other.scalar_type(), "input dtypes must be the same");
  TORCH_CHECK(result == self.scalar_type() || (result == at::kFloat && half),
              "out_dtype must be the same as input dtype or fp32 for fp16/bf16 inputs");
}

template <int kind, bool batches>
Tensor product(const Tensor& self, const Tensor& other, at::ScalarType result) {
  require_result(self, other, result);
  return boxed<kind>(batches ? "aten::bmm" : "aten::mm", self.to(result), {other.to(result)});
}

template <int kind, bool batches>
Tensor added_product(const Tensor& self, const Tensor& one, const Tensor& other, at::ScalarType result,
                     const at::Scalar& beta, const at::Scalar& alpha) {
  require_result(one, other, result);
  return boxed<kind>(batches ? "aten::baddbmm" : "aten::addmm", self.to(result),
                     {one.to(result), other.to(result), beta, alpha});
}

// -- registration

// Where a composite kernel would run on the device what the CPU does in one kernel, the CPU's comes first: the numbers
// are its numbers, and there is less to do.
inline bool prefers_fallback(const c10::OperatorHandle& op) {
  static const std::unordered_set<std::string> chosen{"aten::convolution", "aten::convolution_backward",
                                                    "aten::_grouped_mm"};
  if (chosen.count(op.schema().name()) && op.schema().overload_name().empty()) return true;
  return op.hasKernelForDispatchKey(c10::DispatchKey::CPU) && is_composite(op);
}

// The keys of a type's layouts, and of what is above them.
struct Keys { c10::DispatchKey autograd, coo, compressed, nested, quantized; };

template <int kind>
void register_kernels(std::vector<std::unique_ptr<torch::Library>>& kept, const Keys& keys) {
  const auto library = [&](const char* name, c10::DispatchKey key) -> torch::Library& {
    kept.push_back(std::make_unique<torch::Library>(torch::Library::IMPL, name, key, __FILE__, __LINE__));
    return *kept.back();
  };
  const auto everything = [] { return torch::CppFunction::makeFromBoxedFunction<&fallback<kind, kDense>>(); };
  library("_", kKeys[kind]).fallback(everything());
  library("_", keys.quantized).fallback(torch::CppFunction::makeFromBoxedFunction<&refuse_quantized<kind>>());
  register_layout<kind, kCoo>(library, keys.coo);
  register_layout<kind, kCompressed>(library, keys.compressed);
  register_layout<kind, kNested>(library, keys.nested);

  auto& aten = library("aten", kKeys[kind]);
  std::unordered_set<std::string> own;
  const auto impl = [&](const char* name, auto&& function) {
    own.insert(name);
    aten.impl(name, std::forward<decltype(function)>(function));
  };
  impl("empty.memory_format", empty<kind>);
  impl("empty_strided", empty_strided<kind>);
  impl("_efficientzerotensor", efficient_zeros<kind>);
  impl("as_strided", as_strided);
  impl("view", view);
  impl("_reshape_alias", reshape_alias);
  impl("set_.source_Storage", set_whole_storage);
  impl("set_.source_Storage_storage_offset", set_storage);
  impl("set_.source_Tensor", set_tensor);
  impl("set_", set_nothing);
  impl("copy_", copy_<kind>);
  impl("_local_scalar_dense", local_scalar_dense<kind>);
  impl("record_stream", record_stream);
  impl("_fused_sdp_choice", sdp_choice<kind>);
  impl("scaled_dot_product_attention", attention<kind>);
  impl("histc", histc<kind>);
  impl("_softmax", softmax<kind>);
  impl("_log_softmax", log_softmax<kind>);
  impl("_softmax_backward_data", softmax_backward<kind>);
  impl("_log_softmax_backward_data", log_softmax_backward<kind>);
  impl("native_dropout", native_dropout);
  impl("native_dropout_backward", native_dropout_backward);
  impl("_use_cudnn_ctc_loss", no_ctc_loss);
  impl("_use_cudnn_ctc_loss.Tensor", no_ctc_loss_of_tensors);
  impl("_use_miopen_ctc_loss", no_ctc_loss);
  impl("_use_miopen_ctc_loss.Tensor", no_ctc_loss_of_tensors);
  impl("_nested_view_from_buffer", at::native::_nested_view_from_buffer);
  impl("_fft_r2c", fft_r2c<kind>);
  impl("_fft_c2c", fft_c2c<kind>);
  impl("_fft_c2r", fft_c2r<kind>);
  if constexpr (kind == kCuda) {
    impl("mm.dtype", product<kind, false>);
    impl("bmm.dtype", product<kind, true>);
    impl("addmm.dtype", added_product<kind, false>);
    impl("baddbmm.dtype", added_product<kind, true>);
  }
  auto& above = library("aten", keys.autograd);
  above.impl("scaled_dot_product_attention", attention<kind>);
  for (const auto* layer : {"lstm.input", "lstm.data", "gru.input", "gru.data", "rnn_tanh.input", "rnn_tanh.data",
                            "rnn_relu.input", "rnn_relu.data", "lstm_cell", "gru_cell"}) {
    impl(layer, torch::CppFunction::makeFromBoxedFunction<&recurrent<kind>>());
    above.impl(layer, torch::CppFunction::makeFromBoxedFunction<&recurrent<kind>>());
  }

  for_every_operator([&](const std::string& name, const c10::OperatorHandle& op) {
    if (own.count(name) == 0 && prefers_fallback(op)) aten.impl(name.c_str(), everything());
  });
}

inline void register_all_kernels() {
  // For good: torch would fill its dispatch tables anew each time that they are taken away.
  static auto* kept = new std::vector<std::unique_ptr<torch::Library>>();
  if (!kept->empty()) return;
  using Key = c10::DispatchKey;
  register_kernels<kCuda>(
      *kept, {Key::AutogradCUDA, Key::SparseCUDA, Key::SparseCsrCUDA, Key::NestedTensorCUDA, Key::QuantizedCUDA});
  register_kernels<kMps>(
      *kept, {Key::AutogradMPS, Key::SparseMPS, Key::SparseCsrMPS, Key::NestedTensorMPS, Key::QuantizedMPS});
  register_kernels<kXpu>(
      *kept, {Key::AutogradXPU, Key::SparseXPU, Key::SparseCsrXPU, Key::NestedTensorXPU, Key::QuantizedXPU});
}

}  // namespace devpolicy
