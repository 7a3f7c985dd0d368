#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "corpus/indexed_file.h"

namespace pycat {

/// Memory that holds one batch at a time. `owner` frees it.
struct Block {
  std::byte* data = nullptr;
  std::size_t num_bytes = 0;
  std::shared_ptr<void> owner;
};

/// Hands out blocks, and takes each back when the last reference to it is gone. New memory for each
/// batch would cost more time in page faults than filling it.
class BlockPool : public std::enable_shared_from_this<BlockPool> {
 public:
  /// Begins with the free blocks `blocks`. Keeps at most `max_free` free blocks at a time.
  BlockPool(std::vector<Block> blocks, std::size_t max_free);
  std::shared_ptr<const Block> take(std::size_t num_bytes);

 private:
  void give_back(Block block);

  const pid_t process_;
  std::mutex mutex_;
  std::vector<Block> free_;
  std::size_t max_free_;
};

struct BatchFormat {
  bool padded;
  std::int64_t pad_id;
  OutputType token_type;
};

/// A tensor of one or two dimensions within a block.
struct BatchTensor {
  std::byte* data = nullptr;
  std::array<std::int64_t, 2> shape{};
  int num_dimensions = 1;
  OutputType type{};
};

/// Source and target of N pairs. Tokens are packed (T,) or padded (N, longest); boundaries (N + 1,)
/// count tokens without padding; pair ids are (N,).
struct Batch {
  std::shared_ptr<const Block> block;
  BatchTensor src_tokens;
  BatchTensor src_cu_seqlens;
  BatchTensor tgt_tokens;
  BatchTensor tgt_cu_seqlens;
  BatchTensor pair_ids;
};

/// Reads pairs into batches. Not thread-safe.
class BatchReader {
 public:
  BatchReader(std::shared_ptr<const IndexedFile> src, std::shared_ptr<const IndexedFile> tgt,
              BatchFormat format, std::shared_ptr<BlockPool> pool);

  Batch read(const std::vector<std::int64_t>& ids);

 private:
  std::shared_ptr<const IndexedFile> src_;
  std::shared_ptr<const IndexedFile> tgt_;
  BatchFormat format_;
  std::shared_ptr<BlockPool> pool_;
  std::vector<Slice> src_slices_;
  std::vector<Slice> tgt_slices_;
};

}  // namespace pycat
