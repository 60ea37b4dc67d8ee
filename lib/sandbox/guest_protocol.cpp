#include <nixbuild/base/error.hpp>
#include <nixbuild/nar/name.hpp>
#include <nixbuild/sandbox/guest_protocol.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nixbuild::sandbox {

namespace {

constexpr const char* kProtocolCode = "sandbox.protocol";
/// What is consumed of a buffer is dropped once it is this much.
constexpr std::size_t kCompactAt = 64 * kKiB;
/// A hundred years, so that sums of times stay numbers.
constexpr std::uint64_t kMostMicroseconds = 100ULL * 366 * 86400 * 1'000'000;

enum Type : std::uint32_t {
  kHello = 1,
  kStarted = 2,
  kExited = 3,
  kOutputEnd = 4,
  kFailure = 5,
  kJob = 16,
  kSendOutput = 17,
  kPowerOff = 18,
  kInput = 19,
};

[[noreturn]] void refuse(std::string message) {
  throw Error(Reaction::Reject, kProtocolCode, std::move(message));
}

std::uint32_t load_u32(const char* at) {
  std::uint32_t value = 0;
  for (unsigned i = 0; i < 4; ++i) {
    value |= static_cast<std::uint32_t>(static_cast<std::uint8_t>(at[i])) << (8 * i);
  }
  return value;
}

class Encoder {
public:
  void u8(std::uint8_t value) { out_.push_back(static_cast<char>(value)); }

  void flag(bool value) { u8(value ? 1 : 0); }

  void u32(std::uint32_t value) {
    for (unsigned i = 0; i < 4; ++i) {
      u8(static_cast<std::uint8_t>(value >> (8 * i)));
    }
  }

  void u64(std::uint64_t value) {
    u32(static_cast<std::uint32_t>(value));
    u32(static_cast<std::uint32_t>(value >> 32));
  }

  void time(std::chrono::microseconds value) {
    u64(static_cast<std::uint64_t>(std::max<std::int64_t>(value.count(), 0)));
  }

  void text(std::string_view value, std::size_t limit, const char* what) {
    if (value.size() > limit) {
      refuse(fmt::format("{} of {} bytes exceeds {}", what, value.size(), limit));
    }
    u32(static_cast<std::uint32_t>(value.size()));
    out_.append(value);
  }

  template <class List, class Each>
  void list(const List& values, std::size_t limit, const char* what, Each&& each) {
    if (values.size() > limit) {
      refuse(fmt::format("{} {} exceed {}", values.size(), what, limit));
    }
    u32(static_cast<std::uint32_t>(values.size()));
    for (const auto& value : values) {
      each(value);
    }
  }

  [[nodiscard]] std::string take() { return std::move(out_); }

private:
  std::string out_;
};

class Decoder {
public:
  Decoder(std::string_view bytes, const char* what) : rest_(bytes), what_(what) {}

  std::uint8_t u8() { return static_cast<std::uint8_t>(take(1)[0]); }

  bool flag() {
    const auto value = u8();
    if (value > 1) {
      refuse(fmt::format("{} in {} is neither false nor true", value, what_));
    }
    return value == 1;
  }

  std::uint32_t u32() { return load_u32(take(4).data()); }

  std::uint64_t u64() {
    const std::uint64_t low = u32();
    return low | static_cast<std::uint64_t>(u32()) << 32;
  }

  std::chrono::microseconds time() {
    const auto value = u64();
    if (value > kMostMicroseconds) {
      refuse(fmt::format("a time of {} microseconds in {} is out of range", value, what_));
    }
    return std::chrono::microseconds(static_cast<std::int64_t>(value));
  }

  std::string text(std::size_t limit) {
    const auto size = u32();
    if (size > limit) {
      refuse(fmt::format("a text of {} bytes in {} exceeds {}", size, what_, limit));
    }
    return std::string(take(size));
  }

  /// One path component.
  std::string name() {
    auto value = text(255);
    if (!nar::valid_name(value)) {
      refuse(fmt::format("'{}' in {} is no file name", value, what_));
    }
    return value;
  }

  template <class Each>
  void list(std::size_t limit, Each&& each) {
    const auto count = u32();
    if (count > limit) {
      refuse(fmt::format("a list of {} in {} exceeds {}", count, what_, limit));
    }
    // Each element takes bytes, so memory grows with what was received.
    for (std::uint32_t i = 0; i < count; ++i) {
      each();
    }
  }

  void end() const {
    if (!rest_.empty()) {
      refuse(fmt::format("{} bytes too many in {}", rest_.size(), what_));
    }
  }

private:
  std::string_view take(std::size_t size) {
    if (rest_.size() < size) {
      refuse(fmt::format("{} is too short", what_));
    }
    const auto taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }

  std::string_view rest_;
  const char* what_;
};

constexpr std::size_t kAny = guest::kMaxHostPayload;

void encode_state(Encoder& out, const GuestOutputState& state) {
  out.flag(state.present);
  out.flag(state.suspicious);
  out.text(state.problem, guest::kMaxText, "an output's problem");
}

} // namespace

std::string encode_guest_job(const GuestJob& job) {
  Encoder out;
  out.text(job.store_dir, kAny, "store directory");
  out.text(job.build_dir, kAny, "build directory");
  out.text(job.builder, kAny, "builder");
  out.list(job.arguments, kAny, "arguments", [&](const auto& value) {
    out.text(value, kAny, "argument");
  });
  out.list(job.environment, kAny, "variables", [&](const auto& value) {
    out.text(value.first, kAny, "variable name");
    out.text(value.second, kAny, "variable");
  });
  out.list(job.files, kAny, "files", [&](const auto& file) {
    out.text(file.name, 255, "file name");
    out.text(file.contents, kAny, "file");
  });
  out.list(job.outputs, guest::kMaxOutputs, "outputs", [&](const auto& output) {
    out.text(output.name, kAny, "output name");
    out.text(output.store_name, 255, "output path");
  });
  out.u32(job.uid);
  out.u32(job.gid);
  out.flag(job.linux32);
  out.flag(job.network);
  out.text(job.hosts, kAny, "hosts");
  out.text(job.resolv_conf, kAny, "resolv.conf");
  out.text(job.services, kAny, "services");
  out.text(job.certificates, kAny, "certificates");
  out.text(job.input_database, kAny, "database");
  out.flag(job.store_socket);
  out.flag(job.probe_only);
  auto bytes = out.take();
  if (bytes.size() > guest::kMaxHostPayload) {
    refuse(fmt::format("a job of {} bytes exceeds {}", bytes.size(), guest::kMaxHostPayload));
  }
  return bytes;
}

GuestJob decode_guest_job(std::string_view payload) {
  Decoder in(payload, "a job");
  GuestJob job;
  job.store_dir = in.text(kAny);
  job.build_dir = in.text(kAny);
  job.builder = in.text(kAny);
  in.list(kAny, [&] { job.arguments.push_back(in.text(kAny)); });
  in.list(kAny, [&] {
    auto name = in.text(kAny);
    job.environment.emplace_back(std::move(name), in.text(kAny));
  });
  in.list(kAny, [&] {
    auto name = in.name();
    job.files.push_back({std::move(name), in.text(kAny)});
  });
  in.list(guest::kMaxOutputs, [&] {
    auto name = in.text(kAny);
    job.outputs.push_back({std::move(name), in.name()});
  });
  job.uid = in.u32();
  job.gid = in.u32();
  job.linux32 = in.flag();
  job.network = in.flag();
  job.hosts = in.text(kAny);
  job.resolv_conf = in.text(kAny);
  job.services = in.text(kAny);
  job.certificates = in.text(kAny);
  job.input_database = in.text(kAny);
  job.store_socket = in.flag();
  job.probe_only = in.flag();
  in.end();
  return job;
}

std::string encode_guest_exit(const GuestExit& exit) {
  Encoder out;
  out.u8(static_cast<std::uint8_t>(exit.end));
  out.u32(static_cast<std::uint32_t>(exit.code));
  out.text(exit.message, guest::kMaxText, "message");
  out.list(exit.outputs, guest::kMaxOutputs, "outputs", [&](const auto& state) {
    encode_state(out, state);
  });
  out.time(exit.cpu_user);
  out.time(exit.cpu_system);
  out.u64(exit.peak_memory_bytes);
  out.u64(exit.disk_bytes);
  out.flag(exit.disk_full);
  out.u64(exit.scratch_bytes);
  out.flag(exit.scratch_in_memory);
  out.u64(exit.log_bytes);
  out.time(exit.boot_time);
  out.time(exit.mount_time);
  out.time(exit.builder_time);
  auto bytes = out.take();
  if (bytes.size() > guest::kMaxGuestPayload) {
    refuse(fmt::format("an exit of {} bytes exceeds {}", bytes.size(), guest::kMaxGuestPayload));
  }
  return bytes;
}

GuestExit decode_guest_exit(std::string_view payload) {
  Decoder in(payload, "an exit");
  GuestExit exit;
  const auto end = in.u8();
  if (end > static_cast<std::uint8_t>(GuestEnd::OutOfMemory)) {
    refuse(fmt::format("{} is no way for a builder to end", end));
  }
  exit.end = static_cast<GuestEnd>(end);
  exit.code = static_cast<std::int32_t>(in.u32());
  exit.message = in.text(guest::kMaxText);
  in.list(guest::kMaxOutputs, [&] {
    GuestOutputState state;
    state.present = in.flag();
    state.suspicious = in.flag();
    state.problem = in.text(guest::kMaxText);
    exit.outputs.push_back(std::move(state));
  });
  exit.cpu_user = in.time();
  exit.cpu_system = in.time();
  exit.peak_memory_bytes = in.u64();
  exit.disk_bytes = in.u64();
  exit.disk_full = in.flag();
  exit.scratch_bytes = in.u64();
  exit.scratch_in_memory = in.flag();
  exit.log_bytes = in.u64();
  exit.boot_time = in.time();
  exit.mount_time = in.time();
  exit.builder_time = in.time();
  in.end();
  return exit;
}

namespace guest {

namespace {

std::string frame(std::uint32_t type, std::string_view payload, std::size_t limit) {
  if (payload.size() > limit) {
    refuse(fmt::format("a payload of {} bytes exceeds {}", payload.size(), limit));
  }
  Encoder out;
  out.u32(static_cast<std::uint32_t>(payload.size()));
  out.u32(type);
  return out.take().append(payload);
}

struct EncodeFromGuest {
  std::string operator()(const Hello& hello) const {
    Encoder out;
    out.u32(hello.version);
    out.time(hello.boot_time);
    return frame(kHello, out.take(), kMaxGuestPayload);
  }

  std::string operator()(const Started&) const { return frame(kStarted, {}, kMaxGuestPayload); }

  std::string operator()(const Exited& exited) const {
    return frame(kExited, encode_guest_exit(exited.exit), kMaxGuestPayload);
  }

  std::string operator()(const OutputEnd& end) const {
    Encoder out;
    out.u32(end.index);
    out.text(end.error, kMaxText, "an output's error");
    return frame(kOutputEnd, out.take(), kMaxGuestPayload);
  }

  std::string operator()(const Failure& failure) const {
    Encoder out;
    out.text(failure.text, kMaxText, "a failure's text");
    return frame(kFailure, out.take(), kMaxGuestPayload);
  }
};

struct EncodeToGuest {
  std::string operator()(const Job& job) const {
    return frame(kJob, encode_guest_job(job.job), kMaxHostPayload);
  }

  std::string operator()(const SendOutput& request) const {
    Encoder out;
    out.u32(request.index);
    return frame(kSendOutput, out.take(), kMaxHostPayload);
  }

  std::string operator()(const PowerOff&) const { return frame(kPowerOff, {}, kMaxHostPayload); }

  std::string operator()(const Input& input) const {
    Encoder out;
    out.text(input.bytes, kMaxInput, "what is typed");
    out.u32(input.rows);
    out.u32(input.columns);
    return frame(kInput, out.take(), kMaxHostPayload);
  }
};

} // namespace

std::string encode(const FromGuest& message) {
  return std::visit(EncodeFromGuest{}, message);
}

std::string encode(const ToGuest& message) {
  return std::visit(EncodeToGuest{}, message);
}

void FrameBuffer::feed(ByteView bytes) {
  if (taken_ == buffer_.size()) {
    buffer_.clear();
    taken_ = 0;
  } else if (taken_ >= kCompactAt) {
    buffer_.erase(0, taken_);
    taken_ = 0;
  }
  buffer_.append(text_of(bytes));
}

std::optional<FrameBuffer::Frame> FrameBuffer::next() {
  if (pending() < kHeaderBytes) {
    return std::nullopt;
  }
  const char* header = buffer_.data() + taken_;
  const std::size_t size = load_u32(header);
  if (size > max_payload_) {
    refuse(fmt::format("a frame of {} bytes exceeds {}", size, max_payload_));
  }
  if (pending() - kHeaderBytes < size) {
    return std::nullopt;
  }
  Frame result;
  result.type = load_u32(header + 4);
  result.payload = bytes_of(std::string_view(header + kHeaderBytes, size));
  taken_ += kHeaderBytes + size;
  return result;
}

FromGuest decode_from_guest(const FrameBuffer::Frame& frame) {
  const auto payload = text_of(frame.payload);
  Decoder in(payload, "a guest's message");
  FromGuest message;
  switch (frame.type) {
  case kHello: {
    Hello hello;
    hello.version = in.u32();
    hello.boot_time = in.time();
    message = hello;
    break;
  }
  case kStarted:
    message = Started{};
    break;
  case kExited:
    return Exited{decode_guest_exit(payload)};
  case kOutputEnd: {
    OutputEnd end;
    end.index = in.u32();
    end.error = in.text(kMaxText);
    message = std::move(end);
    break;
  }
  case kFailure:
    message = Failure{in.text(kMaxText)};
    break;
  default:
    refuse(fmt::format("a guest sends no messages of type {}", frame.type));
  }
  in.end();
  return message;
}

ToGuest decode_to_guest(const FrameBuffer::Frame& frame) {
  const auto payload = text_of(frame.payload);
  Decoder in(payload, "a host's message");
  ToGuest message;
  switch (frame.type) {
  case kJob:
    return Job{decode_guest_job(payload)};
  case kSendOutput:
    message = SendOutput{in.u32()};
    break;
  case kPowerOff:
    message = PowerOff{};
    break;
  case kInput: {
    Input input;
    input.bytes = in.text(kMaxInput);
    input.rows = in.u32();
    input.columns = in.u32();
    message = std::move(input);
    break;
  }
  default:
    refuse(fmt::format("a host sends no messages of type {}", frame.type));
  }
  in.end();
  return message;
}

std::size_t OutputFrames::feed(ByteView bytes, ByteSink& sink) {
  std::size_t at = 0;
  while (at < bytes.size() && !ended_) {
    if (left_ > 0) {
      const auto size = std::min<std::size_t>(left_, bytes.size() - at);
      sink.write(bytes.subspan(at, size));
      at += size;
      left_ -= static_cast<std::uint32_t>(size);
      continue;
    }
    header_ |= static_cast<std::uint32_t>(bytes[at++]) << (8 * header_bytes_);
    if (++header_bytes_ < 4) {
      continue;
    }
    if (header_ > kMaxOutputFrame) {
      refuse(fmt::format("an output's frame of {} bytes exceeds {}", header_, kMaxOutputFrame));
    }
    ended_ = header_ == 0;
    left_ = std::exchange(header_, 0);
    header_bytes_ = 0;
  }
  return at;
}

} // namespace guest

} // namespace nixbuild::sandbox
