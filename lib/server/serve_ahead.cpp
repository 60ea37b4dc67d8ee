#include "serve_state.hpp"
#include "session_times.hpp"

#include <nixbuild/base/error.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/this_coro.hpp>

#include <utility>

namespace nixbuild::server {

namespace asio = boost::asio;
namespace serve = protocol::serve;

bool ServeState::is_question(const serve::Request& request) {
  const auto* infos = std::get_if<serve::QueryPathInfos>(&request);
  return std::holds_alternative<serve::QueryValidPaths>(request) ||
         std::holds_alternative<serve::QueryClosure>(request) ||
         (infos != nullptr && infos->paths.size() <= kInfosAtOnce);
}

aio::Task<void> ServeState::answer(std::shared_ptr<ServeState> self, std::shared_ptr<Asked> asked) {
  const auto began = self->caller_.times->now_us();
  auto& question = asked->question;
  try {
    self->caller_.expect(serve::permission_of(question), serve::name_of(question));
    if (auto* valid = std::get_if<serve::QueryValidPaths>(&question)) {
      asked->reply = co_await self->look_up(*valid);
    } else if (auto* infos = std::get_if<serve::QueryPathInfos>(&question)) {
      asked->reply = co_await self->look_up(*infos);
    } else {
      asked->reply = co_await self->look_up(std::get<serve::QueryClosure>(question));
    }
  } catch (...) {
    asked->failure = std::current_exception();
  }
  self->caller_.times->asked(began);
  self->answered_.notify();
}

aio::Task<void> ServeState::serve_ahead(std::vector<serve::Request> questions) {
  const auto strand = co_await asio::this_coro::executor;
  std::vector<std::shared_ptr<Asked>> all;
  for (auto& question : questions) {
    all.push_back(std::make_shared<Asked>(Asked{std::move(question)}));
    auto answering = answer(shared_from_this(), all.back());
    if (questions.size() == 1) {
      co_await std::move(answering);
    } else {
      // They own what they use: a client that leaves does not wait for its answers.
      asio::co_spawn(strand, std::move(answering), asio::detached);
    }
  }
  for (const auto& asked : all) {
    while (!asked->answered()) {
      co_await reply(); // nobody waits for a slower one behind
      const auto seen = answered_.count();
      if (!asked->answered()) {
        co_await answered_.wait(seen);
      }
    }
    if (asked->failure) {
      co_await reply(); // what came before it was asked for properly
      std::rethrow_exception(asked->failure);
    }
    reply_ += *asked->reply;
    if (reply_.size() >= kGather) {
      co_await reply();
    }
  }
  co_await reply();
}

} // namespace nixbuild::server
