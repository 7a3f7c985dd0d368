#include "cross_entropy/cross_entropy.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "base/aligned_array.h"
#include "base/int_math.h"
#include "base/worker_threads.h"
#include "cross_entropy/float_type.h"
#include "cross_entropy/token_stats.h"

namespace pycat {
namespace {

// A chunk of the weight that stays in the L2 cache while all panels of a block pass by. Its size
// fixes where sums are cut, so it must depend on the width alone.
constexpr std::int64_t kChunkBytes = 192 << 10;
constexpr std::int64_t kMaxChunkTiles = 128;
// Panels of a block: every block packs the weight anew, which costs about 3 % of 64 panels' product
// at H = 256. With nothing to pack, smaller blocks keep threads busy to the end.
constexpr std::int64_t kBlockPanels = 64;
constexpr std::int64_t kPackedBlockPanels = 32;
constexpr std::int64_t kAllPanelsBytes = 12 << 20;

const CrossEntropyKernels& kernels_of(CpuIsa isa) {
#ifdef PYCAT_X86
  if (isa == CpuIsa::kAvx2) return kAvx2Kernels;
  if (isa == CpuIsa::kAvx512 || isa == CpuIsa::kAvx512Bf16) return kAvx512Kernels;
#else
  static_cast<void>(isa);
#endif
  return kPortableKernels;
}

double norm(const char* row, FloatType type, std::int64_t width) {
  std::array<double, 4> sums{};  // independent chains; the order is fixed
  for (std::int64_t i = 0; i < width; ++i) {
    const auto value = static_cast<double>(element(row, type, i));
    sums[static_cast<std::size_t>(i % 4)] += value * value;
  }
  return std::sqrt((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

/// Asks for all lines at once: read in order they would come one by one. For a weight that is in no
/// cache this halves the time of packing it.
void prefetch(const void* begin, std::int64_t num_bytes) {
  const char* at = static_cast<const char*>(begin);
  for (std::int64_t i = 0; i < num_bytes; i += 64) __builtin_prefetch(at + i, 0, 2);
}

/// How a range of tokens is cut into tasks; no result depends on it.
struct Blocks {
  Blocks(const LinearKernel& kernel, std::int64_t num_tokens, std::int64_t num_checkpoints,
         std::int64_t width, bool packed, std::int64_t num_threads) {
    const std::int64_t panel_bytes =
        4 * kernel.panel_tokens * std::max<std::int64_t>(1, row_words(width, kernel.pairs));
    const std::int64_t most = std::clamp<std::int64_t>(
        kAllPanelsBytes / num_threads / panel_bytes, 1, packed ? kPackedBlockPanels : kBlockPanels);
    const std::int64_t num_panels = divide_up(num_tokens, kernel.panel_tokens);
    std::int64_t wanted = divide_up(num_panels, most);
    // As many tasks as keep all threads busy to the end.
    wanted = divide_up(wanted * num_checkpoints, num_threads) * num_threads / num_checkpoints;
    panels = std::max<std::int64_t>(1, divide_up(num_panels, std::max<std::int64_t>(1, wanted)));
    per_checkpoint = divide_up(num_panels, panels);
  }

  std::int64_t panels;
  std::int64_t per_checkpoint;
};

/// One thread's memory.
struct Workspace {
  Workspace(const LinearKernel& kernel, std::int64_t num_panels, std::int64_t row_words,
            std::int64_t chunk_words)
      : words(num_panels * row_words * kernel.panel_tokens),
        fields(num_panels * kNumTokenFields * kernel.panel_tokens),
        wanted(num_panels * (kernel.panel_tokens + 1)),
        panels(static_cast<std::size_t>(num_panels)),
        tiles(chunk_words) {}

  AlignedArray<std::uint32_t> words;
  AlignedArray<float> fields;
  AlignedArray<TargetLogit> wanted;
  std::vector<LinearPanel> panels;
  AlignedArray<std::uint32_t> tiles;
};

class LinearPass {
 public:
  LinearPass(const LinearKernel& kernel, const TokenTargets& targets, const LinearHeads& heads,
             SequenceSums& sums)
      : kernel_(kernel), targets_(targets), heads_(heads), sums_(sums) {
    units_ = row_words(heads.width, kernel.pairs);
    tile_words_ = tile_words(kernel, heads.width);
    chunk_tiles_ = std::clamp<std::int64_t>(kChunkBytes / (4 * tile_words_), 1, kMaxChunkTiles);
    num_tiles_ = divide_up(targets.vocab_size, kernel.tile_rows);
  }

  void run(std::int64_t num_threads) {
    const auto num_tokens = static_cast<std::int64_t>(sums_.tokens().size());
    const bool packed = heads_.tiles != nullptr;
    const Blocks blocks(kernel_, num_tokens, targets_.num_checkpoints, heads_.width, packed,
                        num_threads);
    const std::int64_t num_tasks = blocks.per_checkpoint * targets_.num_checkpoints;
    // Only what will be used; memory is reserved before threads start, so that they cannot fail.
    std::vector<Workspace> workspaces;
    for (std::int64_t i = 0; i < std::min(num_threads, num_tasks); ++i) {
      workspaces.emplace_back(kernel_, blocks.panels, units_,
                              packed ? 0 : chunk_tiles_ * tile_words_);
    }
    run_tasks(num_tasks, num_threads, [&](std::int64_t task, std::int64_t worker) {
      const std::int64_t k = task / blocks.per_checkpoint;
      const std::int64_t block_tokens = blocks.panels * kernel_.panel_tokens;
      const std::int64_t first = task % blocks.per_checkpoint * block_tokens;
      score_block(k, first, std::min(first + block_tokens, num_tokens),
                  workspaces[static_cast<std::size_t>(worker)]);
    });
  }

 private:
  /// Tokens [first, last) of the range under checkpoint k.
  void score_block(std::int64_t k, std::int64_t first, std::int64_t last, Workspace& workspace) {
    const std::int64_t num_panels = divide_up(last - first, kernel_.panel_tokens);
    for (std::int64_t p = 0; p < num_panels; ++p) {
      const std::int64_t begin = first + p * kernel_.panel_tokens;
      begin_panel(k, begin, std::min(begin + kernel_.panel_tokens, last), p, workspace);
    }
    for (std::int64_t tile = 0; tile < num_tiles_; tile += chunk_tiles_) {
      const std::int64_t count = std::min(chunk_tiles_, num_tiles_ - tile);
      const LinearChunk chunk = {tiles_of(k, tile, count, workspace), count, units_,
                                 tile * kernel_.tile_rows};
      for (std::int64_t p = 0; p < num_panels; ++p) {
        prefetch_chunk(k, tile + count, p, num_panels);
        const std::size_t following = static_cast<std::size_t>(p + 1 < num_panels ? p + 1 : 0);
        prefetch(workspace.panels[following].words, 4 * units_ * kernel_.panel_tokens);
        kernel_.score(chunk, workspace.panels[static_cast<std::size_t>(p)], targets_.num_stats > 1);
      }
    }
    for (std::int64_t i = first; i < last; ++i) {
      const LinearPanel& panel =
          workspace.panels[static_cast<std::size_t>((i - first) / kernel_.panel_tokens)];
      const std::int64_t token = sums_.tokens()[static_cast<std::size_t>(i)];
      const double hidden_norm =
          targets_.num_stats > 1 ? norm(hidden(k, token), heads_.type, heads_.width) : 0.0;
      finish_token(panel.fields + (i - first) % kernel_.panel_tokens, kernel_.panel_tokens,
                   hidden_norm, targets_.num_stats, sums_.values(k, token), sums_.stat_stride());
    }
  }

  void begin_panel(std::int64_t k, std::int64_t begin, std::int64_t end, std::int64_t p,
                   Workspace& workspace) {
    const std::int64_t lanes = kernel_.panel_tokens;
    std::array<const char*, 64> rows{};
    TargetLogit* wanted = workspace.wanted.data() + p * (lanes + 1);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t token = sums_.tokens()[static_cast<std::size_t>(i)];
      rows[static_cast<std::size_t>(i - begin)] = hidden(k, token);
      wanted[i - begin] = {targets_.targets[token], i - begin};
    }
    std::sort(wanted, wanted + (end - begin),
              [](const TargetLogit& a, const TargetLogit& b) { return a.row < b.row; });
    wanted[end - begin] = {std::numeric_limits<std::int64_t>::max(), 0};
    std::uint32_t* words = workspace.words.data() + p * units_ * lanes;
    interleave_rows(rows.data(), lanes, heads_.width, heads_.type, kernel_.pairs, words);
    float* fields = workspace.fields.data() + p * kNumTokenFields * lanes;
    std::fill_n(fields, kNumTokenFields * lanes, 0.0F);
    std::fill_n(fields + kReference * lanes, lanes, std::numeric_limits<float>::lowest());
    std::fill_n(fields + kMaxLogit * lanes, lanes, -std::numeric_limits<float>::infinity());
    workspace.panels[static_cast<std::size_t>(p)] = {words, fields, wanted};
  }

  const char* hidden(std::int64_t k, std::int64_t token) const {
    return heads_.hidden + (k * targets_.num_tokens + token) * heads_.width * size_of(heads_.type);
  }

  /// Fetches part `part` of `num_parts` of the chunk that begins with `tile`, while the one before
  /// it is computed: memory would otherwise be waited for between chunks.
  void prefetch_chunk(std::int64_t k, std::int64_t tile, std::int64_t part,
                      std::int64_t num_parts) const {
    const std::int64_t rows =
        std::min((tile + chunk_tiles_) * kernel_.tile_rows, targets_.vocab_size) -
        tile * kernel_.tile_rows;
    if (rows <= 0) return;
    const char* begin = nullptr;
    std::int64_t num_bytes = 0;
    if (heads_.tiles != nullptr) {
      begin = reinterpret_cast<const char*>(heads_.tiles + (k * num_tiles_ + tile) * tile_words_);
      num_bytes = divide_up(rows, kernel_.tile_rows) * tile_words_ * 4;
    } else {
      const std::int64_t row_bytes = heads_.width * size_of(heads_.type);
      begin = heads_.weight + (k * targets_.vocab_size + tile * kernel_.tile_rows) * row_bytes;
      num_bytes = rows * row_bytes;
    }
    const std::int64_t part_bytes = divide_up(num_bytes, num_parts);
    const std::int64_t end = std::min(part_bytes * (part + 1), num_bytes);
    for (std::int64_t at = part_bytes * part; at < end; at += 64)
      __builtin_prefetch(begin + at, 0, 2);
  }

  const std::uint32_t* tiles_of(std::int64_t k, std::int64_t tile, std::int64_t count,
                                Workspace& workspace) const {
    if (heads_.tiles != nullptr) {
      const std::uint32_t* tiles = heads_.tiles + (k * num_tiles_ + tile) * tile_words_;
      return tiles;
    }
    const std::int64_t vocab_size = targets_.vocab_size;
    const std::int64_t row_bytes = heads_.width * size_of(heads_.type);
    const std::int64_t first_row = tile * kernel_.tile_rows;
    const std::int64_t num_rows = std::min(count * kernel_.tile_rows, vocab_size - first_row);
    prefetch(heads_.weight + (k * vocab_size + first_row) * row_bytes, num_rows * row_bytes);
    const char* bias =
        heads_.bias == nullptr ? nullptr : heads_.bias + k * vocab_size * size_of(heads_.bias_type);
    const WeightView view = {
        heads_.weight + k * vocab_size * row_bytes,
        bias,
        heads_.type,
        heads_.bias_type,
        vocab_size,
        heads_.width,
    };
    pack_weight(view, kernel_, tile, count, workspace.tiles.data());
    return workspace.tiles.data();
  }

  const LinearKernel& kernel_;
  const TokenTargets& targets_;
  const LinearHeads& heads_;
  SequenceSums& sums_;
  std::int64_t units_;
  std::int64_t tile_words_;
  std::int64_t chunk_tiles_;
  std::int64_t num_tiles_;
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
