#include "cross_entropy/cross_entropy.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "base/aligned_array.h"
#include "base/int_math.h"
#include "base/worker_threads.h"
#include "cross_entropy/float_type.h"
#include "cross_entropy/linear_panels.h"
#include "cross_entropy/token_stats.h"

namespace pycat {
namespace {

constexpr std::int64_t kMaxChunkTiles = 128;
// Each block of panels packs the weight anew, which costs about 3 % of 64 panels' product at
// H = 256. Blocks over a weight that is packed already are smaller: threads stay busy to the end.
constexpr std::int64_t kBlockPanels = 64;
constexpr std::int64_t kPackedBlockPanels = 32;
constexpr std::int64_t kAllPanelsBytes = 12 << 20;  // of all threads together

const CrossEntropyKernels& kernels_of(CpuIsa isa) {
#ifdef PYCAT_X86
  if (isa == CpuIsa::kAvx2 || isa == CpuIsa::kAvxVnni) return kAvx2Kernels;
  if (isa == CpuIsa::kAvx512 || isa == CpuIsa::kAvx512Bf16) return kAvx512Kernels;
#elif defined(PYCAT_ARM64)
  if (isa != CpuIsa::kPortable) return kNeonKernels;
#else
  static_cast<void>(isa);
#endif
  return kPortableKernels;
}

double norm(const char* row, FloatType type, std::int64_t width) {
  std::array<double, 4> sums{};  // independent chains, added in a fixed order
  for (std::int64_t i = 0; i < width; ++i) {
    const auto value = static_cast<double>(element(row, type, i));
    sums[static_cast<std::size_t>(i % 4)] += value * value;
  }
  return std::sqrt((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

/// How a range of tokens is cut into blocks of panels, one task each. No result depends on it.
struct Blocks {
  Blocks(const LinearKernel& kernel, std::int64_t num_tokens, std::int64_t num_checkpoints,
         std::int64_t width, bool is_packed, std::int64_t num_threads) {
    const std::int64_t panel_bytes =
        4 * kernel.panel_tokens * std::max<std::int64_t>(1, row_words(width, kernel.pairs));
    const std::int64_t max_panels =
        std::clamp<std::int64_t>(kAllPanelsBytes / num_threads / panel_bytes, 1,
                                 is_packed ? kPackedBlockPanels : kBlockPanels);
    const std::int64_t num_panels = divide_up(num_tokens, kernel.panel_tokens);
    std::int64_t num_blocks = divide_up(num_panels, max_panels);
    // As many tasks as keep all threads busy to the end.
    num_blocks =
        divide_up(num_blocks * num_checkpoints, num_threads) * num_threads / num_checkpoints;
    block_panels =
        std::max<std::int64_t>(1, divide_up(num_panels, std::max<std::int64_t>(1, num_blocks)));
    per_checkpoint = divide_up(num_panels, block_panels);
  }

  std::int64_t block_panels;
  std::int64_t per_checkpoint;
};

/// One thread's memory: a block of panels, and a chunk of tiles unless the weight is packed.
struct Workspace {
  Workspace(const LinearKernel& kernel, std::int64_t num_panels, std::int64_t num_words,
            std::int64_t chunk_words)
      : words(num_panels * num_words * kernel.panel_tokens),
        fields(num_panels * kNumTokenFields * kernel.panel_tokens),
        targets(num_panels * (kernel.panel_tokens + 1)),
        panels(static_cast<std::size_t>(num_panels)),
        tiles(chunk_words) {}

  AlignedArray<std::uint32_t> words;  // (panels, row words, panel tokens)
  AlignedArray<float> fields;         // (panels, kNumTokenFields, panel tokens)
  AlignedArray<TargetLogit> targets;  // (panels, panel tokens + 1)
  std::vector<LinearPanel> panels;    // (panels,)
  AlignedArray<std::uint32_t> tiles;
};

/// One checkpoint's weight in tiles: packed already, or packed into `chunk` as it is read.
class CheckpointTiles {
 public:
  CheckpointTiles(const LinearKernel& kernel, const LinearHeads& heads, std::int64_t vocab_size,
                  std::int64_t k, std::uint32_t* chunk)
      : kernel_(kernel), chunk_(chunk), tile_words_(tile_words(kernel, heads.width)) {
    if (heads.tiles != nullptr) {
      tiles_ = heads.tiles + k * divide_up(vocab_size, kernel.tile_rows) * tile_words_;
      return;
    }
    row_bytes_ = heads.width * size_of(heads.type);
    view_ = {heads.weight + k * vocab_size * row_bytes_,
             heads.bias,
             heads.type,
             heads.bias_type,
             vocab_size,
             heads.width};
    if (view_.bias != nullptr) view_.bias += k * vocab_size * size_of(heads.bias_type);
  }

  const std::uint32_t* read_tiles(std::int64_t first, std::int64_t count) const {
    if (tiles_ != nullptr) return tiles_ + first * tile_words_;
    // All cache lines are asked for at once: for a weight in no cache, packing takes half the time.
    prefetch_part(bytes_of(first, count), 0, 1);
    pack_weight(view_, kernel_, first, count, chunk_);
    return chunk_;
  }

  ByteRange bytes_of(std::int64_t first, std::int64_t count) const {
    if (tiles_ != nullptr) {
      return {reinterpret_cast<const char*>(tiles_ + first * tile_words_), 4 * count * tile_words_};
    }
    const std::int64_t first_row = first * kernel_.tile_rows;
    const std::int64_t num_rows = std::min(count * kernel_.tile_rows, view_.vocab_size - first_row);
    return {view_.weight + first_row * row_bytes_, num_rows * row_bytes_};
  }

 private:
  const LinearKernel& kernel_;
  std::uint32_t* chunk_;
  std::int64_t tile_words_;
  const std::uint32_t* tiles_ = nullptr;
  WeightView view_{};
  std::int64_t row_bytes_ = 0;
};

/// Statistics of the tokens of one range at a time.
class LinearPass {
 public:
  LinearPass(const LinearKernel& kernel, const TokenTargets& targets, const LinearHeads& heads,
             SequenceSums& sums)
      : kernel_(kernel),
        targets_(targets),
        heads_(heads),
        sums_(sums),
        panel_words_(row_words(heads.width, kernel.pairs) * kernel.panel_tokens),
        tile_words_(tile_words(kernel, heads.width)),
        chunk_tiles_(std::clamp<std::int64_t>(kChunkBytes / (4 * tile_words_), 1, kMaxChunkTiles)),
        all_stats_(targets.num_stats > 1) {}

  void run(std::int64_t num_threads) {
    const auto num_tokens = static_cast<std::int64_t>(sums_.tokens().size());
    const bool is_packed = heads_.tiles != nullptr;
    const Blocks blocks(kernel_, num_tokens, targets_.num_checkpoints, heads_.width, is_packed,
                        num_threads);
    const std::int64_t num_tasks = blocks.per_checkpoint * targets_.num_checkpoints;
    // Memory is reserved before threads start, so that they cannot fail.
    std::vector<Workspace> workspaces;
    for (std::int64_t i = 0; i < std::min(num_threads, num_tasks); ++i) {
      workspaces.emplace_back(kernel_, blocks.block_panels, row_words(heads_.width, kernel_.pairs),
                              is_packed ? 0 : chunk_tiles_ * tile_words_);
    }
    run_tasks(num_tasks, num_threads, [&](std::int64_t task, std::int64_t worker) {
      const std::int64_t k = task / blocks.per_checkpoint;
      const std::int64_t block_tokens = blocks.block_panels * kernel_.panel_tokens;
      const std::int64_t first = task % blocks.per_checkpoint * block_tokens;
      score_block(k, first, std::min(first + block_tokens, num_tokens),
                  workspaces[static_cast<std::size_t>(worker)]);
    });
  }

 private:
  /// Scores tokens [first, last) of the range under checkpoint k.
  void score_block(std::int64_t k, std::int64_t first, std::int64_t last, Workspace& workspace) {
    const std::int64_t num_panels = divide_up(last - first, kernel_.panel_tokens);
    LinearPanel* panels = workspace.panels.data();
    for (std::int64_t p = 0; p < num_panels; ++p) {
      const std::int64_t begin = first + p * kernel_.panel_tokens;
      panels[p] = read_panel(k, begin, std::min(begin + kernel_.panel_tokens, last), p, workspace);
    }
    const CheckpointTiles weight(kernel_, heads_, targets_.vocab_size, k, workspace.tiles.data());
    for_each_chunk(
        weight, divide_up(targets_.vocab_size, kernel_.tile_rows), chunk_tiles_, num_panels,
        [&](const std::uint32_t* tiles, std::int64_t tile, std::int64_t count, std::int64_t p) {
          const LinearPanel& next = panels[p + 1 < num_panels ? p + 1 : 0];
          prefetch_part({reinterpret_cast<const char*>(next.words), 4 * panel_words_}, 0, 1);
          kernel_.score(
              {tiles, count, row_words(heads_.width, kernel_.pairs), tile * kernel_.tile_rows},
              panels[p], all_stats_);
        });
    for (std::int64_t i = first; i < last; ++i) {
      const LinearPanel& panel = panels[(i - first) / kernel_.panel_tokens];
      const std::int64_t token = sums_.tokens()[static_cast<std::size_t>(i)];
      const double hidden_norm =
          all_stats_ ? norm(hidden(k, token), heads_.type, heads_.width) : 0.0;
      finish_token(panel.fields + (i - first) % kernel_.panel_tokens, kernel_.panel_tokens,
                   hidden_norm, targets_.num_stats, sums_.values(k, token), sums_.stat_stride());
    }
  }

  /// Panel p of a block: tokens [begin, end) of the range.
  LinearPanel read_panel(std::int64_t k, std::int64_t begin, std::int64_t end, std::int64_t p,
                         Workspace& workspace) const {
    const std::int64_t lanes = kernel_.panel_tokens;
    constexpr std::size_t kMaxLanes = 64;
    std::array<const char*, kMaxLanes> rows{};
    TargetLogit* targets = workspace.targets.data() + p * (lanes + 1);
    for (std::int64_t lane = 0; lane < end - begin; ++lane) {
      const std::int64_t token = sums_.tokens()[static_cast<std::size_t>(begin + lane)];
      rows[static_cast<std::size_t>(lane)] = hidden(k, token);
      targets[lane] = {targets_.targets[token], lane};
    }
    std::uint32_t* words = workspace.words.data() + p * panel_words_;
    interleave_rows(rows.data(), lanes, heads_.width, heads_.type, kernel_.pairs, words);
    float* fields = workspace.fields.data() + p * kNumTokenFields * lanes;
    return begin_panel(kernel_, words, nullptr, fields, targets, end - begin);
  }

  const char* hidden(std::int64_t k, std::int64_t token) const {
    return heads_.hidden + (k * targets_.num_tokens + token) * heads_.width * size_of(heads_.type);
  }

  const LinearKernel& kernel_;
  const TokenTargets& targets_;
  const LinearHeads& heads_;
  SequenceSums& sums_;
  std::int64_t panel_words_;
  std::int64_t tile_words_;
  std::int64_t chunk_tiles_;
  bool all_stats_;
};

}  // namespace

const LinearKernel& linear_kernel(CpuIsa isa, FloatType type) {
#ifdef PYCAT_X86
  if (isa == CpuIsa::kAvx512Bf16 && type == FloatType::kBFloat16) return kAvx512Bf16Kernel;
#endif
  const CrossEntropyKernels& kernels = kernels_of(isa);
  return type == FloatType::kBFloat16 ? kernels.bfloat16 : kernels.float32;
}

void linear_cross_entropy(CpuIsa isa, const TokenTargets& targets, const LinearHeads& heads,
                          std::int64_t num_threads, SequenceResults& results) {
  SequenceSums sums(targets, results);
  LinearPass pass(linear_kernel(isa, heads.type), targets, heads, sums);
  while (sums.next_range()) {
    if (!sums.tokens().empty()) pass.run(num_threads);
    sums.add_range();
  }
  sums.finish();
}

void cross_entropy(CpuIsa isa, const TokenTargets& targets, const char* logits, FloatType type,
                   std::int64_t num_threads, SequenceResults& results) {
  constexpr std::int64_t kTaskTokens = 64;
  const ScoreLogits score = kernels_of(isa).score_logits;
  SequenceSums sums(targets, results);
  while (sums.next_range()) {
    const std::vector<std::int64_t>& tokens = sums.tokens();
    const auto num_tokens = static_cast<std::int64_t>(tokens.size());
    const std::int64_t tasks = divide_up(num_tokens, kTaskTokens);
    run_tasks(tasks * targets.num_checkpoints, num_threads, [&](std::int64_t task, std::int64_t) {
      const std::int64_t k = task / tasks;
      const std::int64_t first = task % tasks * kTaskTokens;
      for (std::int64_t i = first; i < std::min(first + kTaskTokens, num_tokens); ++i) {
        const std::int64_t token = tokens[static_cast<std::size_t>(i)];
        const char* row =
            logits + (k * targets.num_tokens + token) * targets.vocab_size * size_of(type);
        std::array<float, kNumTokenFields> fields{};
        score(row, type, targets.vocab_size, targets.targets[token], targets.num_stats > 1,
              fields.data());
        finish_token(fields.data(), 1, 0.0, targets.num_stats, sums.values(k, token),
                     sums.stat_stride());
      }
    });
    sums.add_range();
  }
  sums.finish();
}

}  // namespace pycat
