#pragma once

#include "protocol/buffer.hpp"
#include "protocol/coder.hpp"
#include "protocol/skim.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/store_path.hpp>
#include <nixbuild/protocol/wire.hpp>

#include <exception>
#include <optional>
#include <string_view>
#include <utility>

namespace nixbuild::protocol::wire {

/// Adds `message: field` to what a decoder says.
void add_place(Error& error, std::string_view message, std::string_view field);

/// Gathers bytes and takes whole messages out of them. After an error it throws that error again
/// whatever is asked.
class Receiver {
public:
  Receiver(model::StoreDir dir, Limits limits) : dir_(std::move(dir)), limits_(limits) {}

  void feed(ByteView bytes) { buffer_.append(bytes); }

  [[nodiscard]] ByteView view() const noexcept { return buffer_.view(); }

  void consume(std::size_t count) { buffer_.consume(count); }

  /// Runs `call`; what it throws is thrown from then on.
  template <class Call>
  auto guarded(Call call) {
    if (failure_) {
      std::rethrow_exception(failure_);
    }
    try {
      return call();
    } catch (...) {
      failure_ = std::current_exception();
      throw;
    }
  }

  /// The next word, without taking it.
  [[nodiscard]] std::optional<std::uint64_t> peek_word() const {
    if (view().size() < kWordBytes) {
      return std::nullopt;
    }
    return load_word(view());
  }

  /// The message `name` once it is complete: `read(decoder)` of a message of the shape that
  /// `fill(shape)` makes. `name` is static text; asking for another name starts over.
  template <class Fill, class Read>
  auto take(std::string_view name, const Dialect& dialect, Fill fill, Read read)
      -> std::optional<decltype(read(std::declval<Decoder&>()))> {
    if (!skimmer_ || message_ != name) {
      Shape shape;
      fill(shape);
      skimmer_.emplace(name, std::move(shape), limits_);
      message_ = name;
    }
    if (!skimmer_->advance(view())) {
      return std::nullopt;
    }
    const std::size_t size = skimmer_->size();
    skimmer_.reset();
    Decoder decoder(view().first(size), dir_, dialect);
    std::optional<decltype(read(decoder))> out;
    try {
      out.emplace(read(decoder));
      decoder.expect_end();
    } catch (Error& error) {
      add_place(error, name, decoder.field());
      throw;
    }
    consume(size);
    return out;
  }

  /// Nothing is buffered.
  [[nodiscard]] bool empty() const noexcept { return view().empty(); }

private:
  model::StoreDir dir_;
  Limits limits_;
  Buffer buffer_;
  std::optional<Skimmer> skimmer_;
  std::string_view message_;
  std::exception_ptr failure_;
};

} // namespace nixbuild::protocol::wire
