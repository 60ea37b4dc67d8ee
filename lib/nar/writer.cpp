#include "nar/gather.hpp"
#include "nar/tokens.hpp"
#include "nar/tree_rules.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/name.hpp>
#include <nixbuild/nar/writer.hpp>

#include <fmt/format.h>

namespace nixbuild::nar {

namespace {

enum class Expect : std::uint8_t { Node, Contents, Entry, Nothing };

[[noreturn]] void out_of_place(std::string_view call, std::uint64_t offset) {
  throw Error(Reaction::Reject,
              "nar.syntax",
              fmt::format("'{}' out of place at byte {} of the archive", call, offset));
}

} // namespace

struct Writer::State {
  State(ByteSink& sink, const Limits& limits) : out(sink), rules(limits) {}

  void begin_node(std::string_view call) {
    require(Expect::Node, call);
    if (out.total() == 0) {
      out.add(kMagic);
    }
    rules.node(out.total());
  }

  void end_node() {
    out.add(rules.level() == 0 ? ByteView(kClose) : ByteView(kCloseBoth));
    rules.total(out.total(), 0);
    expect = rules.level() == 0 ? Expect::Nothing : Expect::Entry;
  }

  void text(std::string_view bytes) {
    out.add(u64_bytes(bytes.size()));
    out.add(bytes_of(bytes));
    out.zeros(padding_of(bytes.size()));
  }

  void require(Expect wanted, std::string_view call) const {
    if (expect != wanted) {
      out_of_place(call, out.total());
    }
  }

  Gather<ByteSink> out;
  TreeRules rules;
  Expect expect = Expect::Node;
  std::uint64_t remaining = 0; ///< of the file's contents
  std::uint64_t padding = 0;   ///< behind the contents
};

Writer::Writer(ByteSink& out, const Limits& limits)
    : state_(std::make_unique<State>(out, limits)) {}

Writer::~Writer() = default;

void Writer::regular(bool executable, std::uint64_t size) {
  state_->begin_node("regular");
  state_->out.add(kRegular);
  state_->out.add(executable ? ByteView(kExecutable) : ByteView(kContents));
  state_->out.add(u64_bytes(size));
  state_->rules.total(state_->out.total(), size);
  state_->remaining = size;
  state_->padding = padding_of(size);
  state_->expect = Expect::Contents;
}

void Writer::contents(ByteView bytes) {
  state_->require(Expect::Contents, "contents");
  if (bytes.size() > state_->remaining) {
    out_of_place("contents beyond the announced size", state_->out.total());
  }
  state_->out.add(bytes);
  state_->remaining -= bytes.size();
}

void Writer::regular_end() {
  state_->require(Expect::Contents, "regular_end");
  if (state_->remaining != 0) {
    out_of_place("regular_end before the announced size", state_->out.total());
  }
  state_->out.zeros(state_->padding);
  state_->end_node();
}

void Writer::symlink(std::string_view target) {
  state_->begin_node("symlink");
  state_->rules.target(target, state_->out.total());
  state_->out.add(kSymlink);
  state_->out.add(kTarget);
  state_->text(target);
  state_->end_node();
}

void Writer::directory() {
  state_->begin_node("directory");
  state_->rules.enter_directory();
  state_->out.add(kDirectory);
  state_->expect = Expect::Entry;
}

void Writer::entry(std::string_view name) {
  state_->require(Expect::Entry, "entry");
  state_->rules.name(name, state_->out.total());
  state_->out.add(kEntry);
  state_->text(name);
  state_->out.add(kNode);
  state_->expect = Expect::Node;
}

void Writer::directory_end() {
  state_->require(Expect::Entry, "directory_end");
  state_->rules.leave_directory();
  state_->end_node();
}

void Writer::finish() {
  if (state_->expect != Expect::Nothing) {
    throw Error(Reaction::Reject,
                "nar.truncated",
                fmt::format("tree ends before its root does, at byte {} of the archive",
                            state_->out.total()));
  }
  state_->out.flush();
}

} // namespace nixbuild::nar
