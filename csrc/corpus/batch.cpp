#include "corpus/batch.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "base/int_math.h"

namespace pycat {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kBlockGranularity =
    1 << 16;  // so that blocks can be used again for batches of similar size

Block allocate(std::size_t num_bytes) {
  num_bytes = round_up(num_bytes, kBlockGranularity);
  auto* data = static_cast<std::byte*>(std::aligned_alloc(kAlignment, num_bytes));
  if (data == nullptr) throw std::bad_alloc();
  return {data, num_bytes, std::shared_ptr<void>(data, &std::free)};
}

std::int64_t size_of(OutputType type) { return type == OutputType::kInt32 ? 4 : 8; }

std::size_t size_of(const BatchTensor& tensor) {
  const std::int64_t rows = tensor.num_dimensions == 2 ? tensor.shape[0] : 1;
  const std::int64_t columns = tensor.shape[tensor.num_dimensions == 2 ? 1 : 0];
  return static_cast<std::size_t>(rows * columns * size_of(tensor.type));
}

BatchTensor tokens_tensor(const std::vector<Slice>& slices, BatchFormat format) {
  const Extent extent = measure(slices);
  BatchTensor tensor;
  tensor.type = format.token_type;
  if (format.padded) {
    tensor.num_dimensions = 2;
    tensor.shape = {static_cast<std::int64_t>(slices.size()), extent.longest};
    constexpr std::int64_t kMaxElements = std::numeric_limits<std::int64_t>::max() / 64;
    if (extent.longest > 0 && tensor.shape[0] > kMaxElements / extent.longest)
      throw std::bad_alloc();
  } else {
    tensor.shape[0] = extent.num_tokens;
  }
  return tensor;
}

BatchTensor vector_tensor(std::size_t size, OutputType type) {
  BatchTensor tensor;
  tensor.type = type;
  tensor.shape[0] = static_cast<std::int64_t>(size);
  return tensor;
}

void write_boundaries(const std::vector<Slice>& slices, std::byte* output) {
  auto* boundary = reinterpret_cast<std::int32_t*>(output);
  *boundary = 0;
  for (const Slice& slice : slices) {
    boundary[1] = boundary[0] + slice.length;
    ++boundary;
  }
}

}  // namespace

BlockPool::BlockPool(std::vector<Block> blocks, std::size_t max_free)
    : process_(::getpid()), free_(std::move(blocks)), max_free_(max_free) {
  free_.reserve(std::max(max_free_, free_.size()));
}

std::shared_ptr<const Block> BlockPool::take(std::size_t num_bytes) {
  Block block;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto fit = std::find_if(free_.begin(), free_.end(), [num_bytes](const Block& candidate) {
      return candidate.num_bytes >= num_bytes;
    });
    if (fit != free_.end()) {
      block = std::move(*fit);
      free_.erase(fit);
    }
  }
  if (block.data == nullptr) block = allocate(num_bytes);
  auto* taken = new Block(std::move(block));
  return {taken, [pool = weak_from_this()](Block* used) {
            // In a forked process, a thread that does not exist there may hold the lock.
            if (const auto alive = pool.lock(); alive && alive->process_ == ::getpid()) {
              alive->give_back(std::move(*used));
            }
            delete used;
          }};
}

void BlockPool::give_back(Block block) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (free_.size() < max_free_) {
    free_.push_back(std::move(block));
    return;
  }
  // The smallest block is given up first. Blocks too small for a batch would otherwise stay, while
  // each batch allocates a new one.
  const auto smallest = std::min_element(
      free_.begin(), free_.end(),
      [](const Block& one, const Block& other) { return one.num_bytes < other.num_bytes; });
  if (smallest != free_.end() && smallest->num_bytes < block.num_bytes) std::swap(*smallest, block);
}

BatchReader::BatchReader(std::shared_ptr<const IndexedFile> src,
                         std::shared_ptr<const IndexedFile> tgt, BatchFormat format,
                         std::shared_ptr<BlockPool> pool)
    : src_(std::move(src)), tgt_(std::move(tgt)), format_(format), pool_(std::move(pool)) {
  require_pairs(*src_, *tgt_);
}

Batch BatchReader::read(const std::vector<std::int64_t>& ids) {
  src_slices_.clear();
  tgt_slices_.clear();
  tgt_->locate(ids.data(), ids.size(), tgt_slices_);
  src_->locate(ids.data(), ids.size(), src_slices_);

  Batch batch;
  batch.src_tokens = tokens_tensor(src_slices_, format_);
  batch.tgt_tokens = tokens_tensor(tgt_slices_, format_);
  batch.src_cu_seqlens = vector_tensor(ids.size() + 1, OutputType::kInt32);
  batch.tgt_cu_seqlens = vector_tensor(ids.size() + 1, OutputType::kInt32);
  batch.pair_ids = vector_tensor(ids.size(), OutputType::kInt64);
  const std::array<BatchTensor*, 5> tensors{&batch.src_tokens, &batch.tgt_tokens, &batch.pair_ids,
                                            &batch.src_cu_seqlens, &batch.tgt_cu_seqlens};
  std::size_t num_bytes = 0;
  for (const BatchTensor* tensor : tensors) num_bytes += round_up(size_of(*tensor), kAlignment);
  batch.block = pool_->take(num_bytes);
  std::byte* data = batch.block->data;
  for (BatchTensor* tensor : tensors) {
    tensor->data = data;
    data += round_up(size_of(*tensor), kAlignment);
  }

  const auto copy = [&](const IndexedFile& file, const std::vector<Slice>& slices,
                        const BatchTensor& tokens) {
    const TokenLayout layout{format_.padded ? tokens.shape[1] : 0, format_.pad_id};
    const auto output_size = size_of(tokens) / static_cast<std::size_t>(size_of(tokens.type));
    file.copy(slices, layout, tokens.type, tokens.data, output_size);
  };
  copy(*src_, src_slices_, batch.src_tokens);
  copy(*tgt_, tgt_slices_, batch.tgt_tokens);
  write_boundaries(src_slices_, batch.src_cu_seqlens.data);
  write_boundaries(tgt_slices_, batch.tgt_cu_seqlens.data);
  std::memcpy(batch.pair_ids.data, ids.data(), ids.size() * sizeof(std::int64_t));
  return batch;
}

}  // namespace pycat
