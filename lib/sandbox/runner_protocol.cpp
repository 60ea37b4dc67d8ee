#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/runner_protocol.hpp>

#include <fmt/format.h>

#include <tuple>
#include <type_traits>
#include <utility>

namespace nixbuild::sandbox::runner {

namespace {

[[noreturn]] void broken(std::string message) {
  throw Error(Reaction::Reject, "sandbox.runner-protocol", std::move(message));
}

/// A text field that may be longer than kMaxText.
template <std::size_t Limit, class Owner>
struct Sized {
  std::string Owner::*member;
};

template <std::size_t Limit, class Owner>
constexpr Sized<Limit, Owner> sized(std::string Owner::*member) {
  return {member};
}

// The tables: type number and fields of each message, in wire order.
template <class T>
struct Table;

template <>
struct Table<Start> {
  static constexpr std::uint8_t type = 1;
  static constexpr auto fields = std::make_tuple(&Start::version,
                                                 &Start::id,
                                                 &Start::cpus,
                                                 &Start::memory_bytes,
                                                 &Start::kvm,
                                                 &Start::debug_console,
                                                 &Start::qemu,
                                                 &Start::qemu_files,
                                                 &Start::kernel_options,
                                                 &Start::uid_base,
                                                 &Start::uid_count,
                                                 &Start::slot_directory,
                                                 &Start::cgroup_parent,
                                                 &Start::cgroup_name,
                                                 &Start::cgroup_release,
                                                 &Start::network_helper,
                                                 &Start::network_allow,
                                                 &Start::disk_maker,
                                                 &Start::scratch_bytes,
                                                 &Start::log_limit_bytes,
                                                 &Start::patience_seconds,
                                                 &Start::grace_seconds,
                                                 &Start::alone_seconds,
                                                 &Start::extents,
                                                 sized<72 * kMiB>(&Start::job));
};

template <>
struct Table<Extents> {
  static constexpr std::uint8_t type = 2;
  static constexpr auto fields = std::make_tuple(&Extents::ranges);
};

template <>
struct Table<Attach> {
  static constexpr std::uint8_t type = 3;
  static constexpr auto fields = std::make_tuple(&Attach::log_offset);
};

template <>
struct Table<Output> {
  static constexpr std::uint8_t type = 4;
  static constexpr auto fields = std::make_tuple(&Output::index);
};

template <>
struct Table<Finish> {
  static constexpr std::uint8_t type = 5;
  static constexpr auto fields = std::make_tuple();
};

template <>
struct Table<Kill> {
  static constexpr std::uint8_t type = 6;
  static constexpr auto fields = std::make_tuple();
};

template <>
struct Table<Input> {
  static constexpr std::uint8_t type = 7;
  static constexpr auto fields =
      std::make_tuple(sized<16 * kKiB>(&Input::bytes), &Input::rows, &Input::columns);
};

template <>
struct Table<Accepted> {
  static constexpr std::uint8_t type = 64;
  static constexpr auto fields = std::make_tuple(&Accepted::version,
                                                 &Accepted::runner_pid,
                                                 &Accepted::emulator_pid,
                                                 &Accepted::jail_walls,
                                                 &Accepted::jail_shortfall);
};

template <>
struct Table<Phase> {
  static constexpr std::uint8_t type = 65;
  static constexpr auto fields = std::make_tuple(&Phase::name, &Phase::since_start_us);
};

template <>
struct Table<LogData> {
  static constexpr std::uint8_t type = 66;
  static constexpr auto fields =
      std::make_tuple(&LogData::offset, sized<kMaxData>(&LogData::bytes));
};

template <>
struct Table<Exited> {
  static constexpr std::uint8_t type = 67;
  static constexpr auto fields = std::make_tuple(sized<16 * kMiB>(&Exited::exit));
};

template <>
struct Table<OutputData> {
  static constexpr std::uint8_t type = 68;
  static constexpr auto fields = std::make_tuple(sized<kMaxData>(&OutputData::bytes));
};

template <>
struct Table<OutputEnd> {
  static constexpr std::uint8_t type = 69;
  static constexpr auto fields = std::make_tuple();
};

template <>
struct Table<OutputFailed> {
  static constexpr std::uint8_t type = 70;
  static constexpr auto fields = std::make_tuple(&OutputFailed::reason);
};

template <>
struct Table<Failed> {
  static constexpr std::uint8_t type = 71;
  static constexpr auto fields = std::make_tuple(&Failed::code, &Failed::message);
};

template <>
struct Table<Down> {
  static constexpr std::uint8_t type = 72;
  static constexpr auto fields =
      std::make_tuple(&Down::peak_rss_bytes, &Down::cpu_user_us, &Down::cpu_system_us);
};

template <>
struct Table<Conversation> {
  static constexpr std::uint8_t type = 73;
  static constexpr auto fields = std::make_tuple(&Conversation::channel);
};

template <>
struct Table<Measured> {
  static constexpr std::uint8_t type = 74;
  static constexpr auto fields = std::make_tuple(&Measured::cpu_user_us, &Measured::cpu_system_us);
};

class Writer {
public:
  explicit Writer(std::string& out) : out_(out) {}

  template <class T>
  requires std::is_unsigned_v<T>

  void number(T value) {
    for (std::size_t i = 0; i < sizeof value; ++i) {
      out_.push_back(static_cast<char>(static_cast<std::uint64_t>(value) >> (8 * i) & 0xff));
    }
  }

  void text(std::string_view value, std::size_t limit) {
    if (value.size() > limit) {
      broken(fmt::format("a text of {} bytes exceeds {}", value.size(), limit));
    }
    number(static_cast<std::uint32_t>(value.size()));
    out_.append(value);
  }

  template <class Owner, class T>
  void field(const Owner& owner, T Owner::*member) {
    const auto& value = owner.*member;
    if constexpr (std::is_same_v<T, bool>) {
      number(static_cast<std::uint8_t>(value ? 1 : 0));
    } else if constexpr (std::is_same_v<T, std::string>) {
      text(value, kMaxText);
    } else if constexpr (std::is_unsigned_v<T>) {
      number(value);
    } else {
      if (value.size() > kMaxExtentsPerMessage) {
        broken(fmt::format(
            "{} extents in one message exceed {}", value.size(), kMaxExtentsPerMessage));
      }
      number(static_cast<std::uint32_t>(value.size()));
      for (const auto& range : value) {
        number(range.offset);
        number(range.length);
      }
    }
  }

  template <class Owner, std::size_t Limit>
  void field(const Owner& owner, Sized<Limit, Owner> sized_text) {
    text(owner.*sized_text.member, Limit);
  }

private:
  std::string& out_;
};

class Reader {
public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  template <class T>
  T number() {
    const auto raw = take(sizeof(T));
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      value |= std::uint64_t{static_cast<std::uint8_t>(raw[i])} << (8 * i);
    }
    return static_cast<T>(value);
  }

  std::string text(std::size_t limit) {
    const auto size = number<std::uint32_t>();
    if (size > limit) {
      broken(fmt::format("a text of {} bytes exceeds {}", size, limit));
    }
    return std::string(take(size));
  }

  template <class Owner, class T>
  void field(Owner& owner, T Owner::*member) {
    auto& value = owner.*member;
    if constexpr (std::is_same_v<T, bool>) {
      const auto byte = number<std::uint8_t>();
      if (byte > 1) {
        broken(fmt::format("{} is no truth value", byte));
      }
      value = byte == 1;
    } else if constexpr (std::is_same_v<T, std::string>) {
      value = text(kMaxText);
    } else if constexpr (std::is_unsigned_v<T>) {
      value = number<T>();
    } else {
      const auto count = number<std::uint32_t>();
      if (count > kMaxExtentsPerMessage) {
        broken(fmt::format("{} extents in one message exceed {}", count, kMaxExtentsPerMessage));
      }
      value.resize(count);
      for (auto& range : value) {
        range.offset = number<std::uint64_t>();
        range.length = number<std::uint64_t>();
      }
    }
  }

  template <class Owner, std::size_t Limit>
  void field(Owner& owner, Sized<Limit, Owner> sized_text) {
    owner.*sized_text.member = text(Limit);
  }

  void finish() const {
    if (!bytes_.empty()) {
      broken(fmt::format("{} bytes too many in a message", bytes_.size()));
    }
  }

private:
  std::string_view take(std::size_t size) {
    if (size > bytes_.size()) {
      broken(fmt::format("a message ends {} bytes early", size - bytes_.size()));
    }
    const auto result = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return result;
  }

  std::string_view bytes_;
};

template <class T>
T read_message(std::string_view payload) {
  T message;
  Reader reader(payload);
  std::apply([&](auto... members) { (reader.field(message, members), ...); }, Table<T>::fields);
  reader.finish();
  return message;
}

template <std::size_t... Index>
Message decode(std::uint8_t type, std::string_view payload, std::index_sequence<Index...>) {
  std::optional<Message> result;
  const auto attempt = [&]<class T>(std::type_identity<T>) {
    if (Table<T>::type == type) {
      result = read_message<T>(payload);
    }
  };
  (attempt(std::type_identity<std::variant_alternative_t<Index, Message>>{}), ...);
  if (!result) {
    broken(fmt::format("unknown message type {}", type));
  }
  return std::move(*result);
}

} // namespace

std::string encode(const Message& message) {
  std::string frame(kHeaderBytes, '\0');
  Writer writer(frame);
  std::uint8_t type = 0;
  std::visit(
      [&]<class T>(const T& value) {
        type = Table<T>::type;
        std::apply([&](auto... members) { (writer.field(value, members), ...); }, Table<T>::fields);
      },
      message);
  std::string header;
  Writer(header).number(static_cast<std::uint32_t>(frame.size() - kHeaderBytes));
  Writer(header).number(type);
  frame.replace(0, kHeaderBytes, header);
  return frame;
}

void Decoder::feed(ByteView bytes) {
  if (taken_ == buffer_.size()) {
    buffer_.clear();
    taken_ = 0;
  } else if (taken_ > 64 * kKiB && taken_ > buffer_.size() / 2) {
    buffer_.erase(0, taken_);
    taken_ = 0;
  }
  buffer_.append(text_of(bytes));
}

std::optional<Message> Decoder::next() {
  const auto bytes = std::string_view(buffer_).substr(taken_);
  if (bytes.size() < kHeaderBytes) {
    return std::nullopt;
  }
  Reader header(bytes.substr(0, kHeaderBytes));
  const auto size = header.number<std::uint32_t>();
  const auto type = header.number<std::uint8_t>();
  if (size > kMaxPayload) {
    broken(fmt::format("a message of {} bytes exceeds {}", size, kMaxPayload));
  }
  if (bytes.size() - kHeaderBytes < size) {
    return std::nullopt;
  }
  auto message = decode(type,
                        bytes.substr(kHeaderBytes, size),
                        std::make_index_sequence<std::variant_size_v<Message>>{});
  taken_ += kHeaderBytes + size;
  return message;
}

} // namespace nixbuild::sandbox::runner
