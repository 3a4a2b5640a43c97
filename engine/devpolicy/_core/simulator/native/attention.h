// Attention: the CPU's kernels give the numbers, and CUDA's rules say which backends could be used.
//
// Owns the choice. Unrestricted it is the CPU's, so that the numbers are the CPU's; where a user switches backends off
// (`torch.nn.attention.sdpa_kernel`), what CUDA would refuse is refused.
#pragma once

#include "fallback.h"

#include <ATen/Context.h>
#include <ATen/ops/_fused_sdp_choice.h>
#include <ATen/ops/_scaled_dot_product_attention_math.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/zeros_like.h>

namespace devpolicy {

constexpr int64_t kFlash = static_cast<int64_t>(at::SDPBackend::flash_attention);

struct Attention {
  const Tensor &query, &key, &value;
  const std::optional<Tensor>& mask;

  bool masked() const { return mask && mask->defined(); }
  int64_t width() const { return query.size(-1); }
  bool is_half() const { return query.scalar_type() == at::kHalf || query.scalar_type() == at::kBFloat16; }
  int capability() const {
    const auto world = open_world(kind_of(query.device().type()));
    const int known = ledger_of(*world, query)->capability();
    return known == 0 ? 80 : known;  // what every backend needs, where the host does not say
  }
};

// Why CUDA does not take a backend, empty where it does.
inline std::string why_not(const Attention& given, at::SDPBackend backend) {
  using Backend = at::SDPBackend;
  if (backend == Backend::math) return "";
  if (given.query.dim() != 4 || given.key.dim() != 4 || given.value.dim() != 4) {
    return "All fused kernels requires query, key and value to be 4 dimensional";
  }
  const bool takes_float = backend == Backend::efficient_attention && given.query.scalar_type() == at::kFloat;
  if (!given.is_half() && !takes_float) {
    return c10::str("Expected query, key and value to all be of dtype: {", takes_float ? "Float, " : "",
                    "Half, BFloat16}. Got Query dtype: ", c10::toString(given.query.scalar_type()));
  }
  const int alignment = given.is_half() ? 8 : 4;
  switch (backend) {
    case Backend::flash_attention:
      if (given.masked()) return "Flash Attention does not support non-null attn_mask.";
      if (given.capability() < 80) return "Flash attention only supports gpu architectures in the range [sm80, sm121].";
      if (given.width() > 256 || given.value.size(-1) != given.width()) {
        return "Flash attention requires q,k,v to have the same last dimension and to be less than or equal to 256.";
      }
      return "";
    case Backend::efficient_attention:
      if (given.query.scalar_type() == at::kBFloat16 && given.capability() < 80) {
        return "Expected query, key and value to all be of dtype: {Half, Float}. Got Query dtype: BFloat16";
      }
      if (given.width() % alignment || given.value.size(-1) % alignment) {
        return c10::str("Mem efficient attention requires last dimension of inputs to be divisible by ", alignment, ".");
      }
      return "";
    case Backend::cudnn_attention:
      if (given.capability() < 80) return "cuDNN MHA only supports gpu architectures in the range [sm80, sm121].";
      if (given.width() % 8 || given.width() > (given.capability() < 90 ? 128 : 256)) {
        return "cuDNN SDPA does not support this head dimension.";
      }
      return "";
    default:
      return "There is no such backend.";
  }
}

struct Backends {
  bool flash = at::globalContext().userEnabledFlashSDP(), efficient = at::globalContext().userEnabledMemEfficientSDP();
  bool math = at::globalContext().userEnabledMathSDP(), cudnn = at::globalContext().userEnabledCuDNNSDP();
};

inline bool is_restricted() {
  const Backends allowed;
  return !(allowed.flash && allowed.efficient && allowed.math && allowed.cudnn);
}

// A tensor of the CPU with the sizes of another and without memory; that other may be one of those that only trace.
inline Tensor shape_of(const Tensor& tensor) {
  const auto* impl = tensor.unsafeGetTensorImpl();
  c10::Storage nothing(c10::Storage::use_byte_size_t(), 0, c10::DataPtr(nullptr, c10::Device(DeviceType::CPU)),
                       nullptr, /*resizable=*/false);
  auto like = at::detail::make_tensor<c10::TensorImpl>(
      std::move(nothing), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  like.unsafeGetTensorImpl()->set_sizes_and_strides(impl->sizes(), impl->strides());
  return like;
}

// The backend that the CPU would choose, so that attention gives the CPU's numbers. It reads sizes and strides only.
template <int kind>
int64_t sdp_choice(const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& mask,
                   double dropout, bool causal, std::optional<double> scale, bool grouped) {
  open_world(kind);
  std::optional<Tensor> like;
  if (mask && mask->defined()) {
    like = shape_of(*mask);
    if (mask->requires_grad()) like->set_requires_grad(true);
  }
  Below below;
  // Tracing is for what runs, and this does not.
  c10::impl::ExcludeDispatchKeyGuard no_tracing(
      c10::DispatchKeySet({c10::DispatchKey::Python, c10::DispatchKey::PythonTLSSnapshot}));
  return at::_fused_sdp_choice(shape_of(query), shape_of(key), shape_of(value), like, dropout, causal, scale, grouped);
}

// Whether a fused backend is the one that CUDA takes of those that are switched on. Raises torch's error for none.
inline bool restricted_choice(const Tensor& query, const Tensor& key, const Tensor& value,
                              const std::optional<Tensor>& mask, double dropout, bool causal,
                              std::optional<double> scale, bool grouped) {
  const Attention given{query, key, value, mask};
  const Backends allowed;
  const std::pair<bool, at::SDPBackend> fused[] = {{allowed.flash, at::SDPBackend::flash_attention},
                                                   {allowed.efficient, at::SDPBackend::efficient_attention},
                                                   {!allowed.math && allowed.cudnn, at::SDPBackend::cudnn_attention}};
  for (const auto& [is_on, backend] : fused) {
    if (!is_on || !why_not(given, backend).empty()) continue;
    // The CPU's choice of a kernel for it, as if nothing were switched off.
    at::globalContext().setSDPUseFlash(true);
    const auto chosen = sdp_choice<kCuda>(query, key, value, mask, dropout, causal, scale, grouped);
    at::globalContext().setSDPUseFlash(allowed.flash);
    return chosen == kFlash;
  }
  if (allowed.math) return false;
  const std::pair<const char*, at::SDPBackend> named[] = {
      {"Memory efficient", at::SDPBackend::efficient_attention},
      {"Flash attention", at::SDPBackend::flash_attention},
      {"cuDNN attention", at::SDPBackend::cudnn_attention}};
  for (const auto& [name, backend] : named) {
    const auto why = why_not(given, backend);
    TORCH_WARN(name, " kernel not used because: ", why.empty() ? "it has been runtime disabled." : why);
  }
  TORCH_CHECK(false, "No available kernel. Aborting execution.");
}

// Whether CUDA takes a fused kernel where the CPU has none, so that no matrix is held. A phantom world has no numbers
// that the CPU would give otherwise; what is small keeps its numbers, and is computed.
inline bool takes_less(int kind, const Attention& given, double dropout) {
  if (kind != kCuda || !open_world(kind)->phantom || is_restricted() || at::GradMode::is_enabled() || dropout > 0) {
    return false;
  }
  return given.query.nbytes() > kKeptBytes && given.value.nbytes() > kKeptBytes &&
         (why_not(given, at::SDPBackend::flash_attention).empty() ||
          why_not(given, at::SDPBackend::efficient_attention).empty());
}

template <int kind>
Tensor attention(const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& mask_,
                 double dropout, bool causal, std::optional<double> scale, bool grouped) {
  for (const Tensor* other : {&key, &value}) {
    TORCH_CHECK(query.device() == other->device(), "Expected query, key, and value to have the same device type, but "
                "got query.device: ", query.device(), " key.device: ", key.device(), " and value.device: ",
                value.device(), " instead.");
  }
  const bool fused = kind == kCuda && is_restricted()
      ? restricted_choice(query, key, value, mask_, dropout, causal, scale, grouped)
      : sdp_choice<kind>(query, key, value, mask_, dropout, causal, scale, grouped) == kFlash;
  if (!fused && takes_less(kind, Attention{query, key, value, mask_}, dropout)) {
    auto sizes = query.sizes().vec();
    sizes.back() = value.size(-1);
    return at::empty(sizes, query.options());
  }
  auto mask = mask_;
  if (mask && mask->defined() && mask->scalar_type() == at::kBool) {
    auto filled = at::zeros_like(*mask, query.options().dtype(query.scalar_type()));
    mask = filled.masked_fill_(mask->logical_not(), -std::numeric_limits<double>::infinity());
  }
  if (fused) {
    return std::get<0>(
        at::_scaled_dot_product_flash_attention_for_cpu(query, key, value, dropout, causal, mask, scale));
  }
  return std::get<0>(at::_scaled_dot_product_attention_math(query, key, value, mask, dropout, causal, std::nullopt,
                                                            scale, grouped));
}


}  // namespace devpolicy
