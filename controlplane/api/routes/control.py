"""Routes that govern: the kill switch, breakers, tokens, and who one is. Handlers only."""

import fastapi

from controlplane.api import asks, guarded, house, problems, rights, wire
from controlplane.api.rights import Right
from controlplane.domain import breakers, errors


async def get_automation(home: guarded.House) -> wire.Automation:
    """Whether automation may act, and who holds it back."""
    return await _automation(home)


async def pause_automation(home: guarded.House, who: guarded.Principal, body: asks.PauseRequest) -> wire.Automation:
    """Hold automation back, under one's own name. Runs stop before their next effect."""
    await home.automation.pause(who.name, body.reason)
    return await _automation(home)


async def resume_automation(home: guarded.House, who: guarded.Principal, body: asks.ResumeRequest) -> wire.Automation:
    """Release one's own brake. Releasing that of somebody else needs the role approver."""
    holder = body.who or who.name
    if (body.everyone or holder != who.name) and not rights.is_granted(who.role, Right.APPROVER):
        raise problems.ProblemError(
            problems.FORBIDDEN,
            f"{who.name} has the role {who.role} and may release only the own brake; ask its holder or an approver.",
        )
    await home.automation.resume(None if body.everyone else holder)
    return await _automation(home)


async def _automation(home: house.House) -> wire.Automation:
    held = await home.automation.paused()
    brakes = [wire.Brake(who=who, reason=reason) for who, reason in sorted(held.items())]
    opened = [wire.Breaker.model_validate(one) for one in await _breakers(home) if one.is_open]
    return wire.Automation(is_paused=bool(brakes), brakes=brakes, breakers=opened)


async def list_breakers(home: guarded.House) -> wire.Items[wire.Breaker]:
    """The breakers that ever tripped: where automation stands still until a person resets it, and where it did."""
    return wire.Items(items=[wire.Breaker.model_validate(one) for one in await _breakers(home)])


async def reset_breaker(
    home: guarded.House, who: guarded.Principal, service: str, body: asks.BreakerReset
) -> wire.Items[wire.Breaker]:
    """Let automation act again on a service. Only what it does from now on counts; 404 when it is not held."""
    await home.automation.reset(service, who.name, body.reason)
    return await list_breakers(home)


async def _breakers(home: house.House) -> list[breakers.Breaker]:
    found = await home.automation.breakers()
    return [found[name] for name in sorted(found)]


async def whoami(who: guarded.Principal) -> wire.Whoami:
    """Whose token was sent."""
    return wire.Whoami(name=who.name, role=who.role)


async def create_token(home: guarded.House, body: asks.TokenRequest) -> wire.NewToken:
    """Make a token. Its secret is in this answer and nowhere else."""
    if body.expires_at is not None and body.expires_at <= home.clock.now():
        raise errors.InvalidInputError("is over already; give a time to come, or none", place="expires_at")
    secret = await home.tokens.create(body.name, body.role, expires_at=body.expires_at)
    return wire.NewToken(name=body.name, role=body.role, token=secret)


async def list_tokens(home: guarded.House) -> wire.Items[wire.Token]:
    """Every token that was made, without its secret."""
    return wire.Items(items=[wire.Token.model_validate(token) for token in await home.tokens.list()])


async def revoke_token(home: guarded.House, name: str) -> fastapi.Response:
    """Make a token stop working at once."""
    await home.tokens.revoke(name)
    return fastapi.Response(status_code=204)


ROUTES = (
    guarded.Route("GET", "/api/v1/automation", Right.VIEWER, get_automation),
    guarded.Route("POST", "/api/v1/automation/pause", Right.OPERATOR, pause_automation),
    guarded.Route("POST", "/api/v1/automation/resume", Right.OPERATOR, resume_automation),
    guarded.Route("GET", "/api/v1/automation/breakers", Right.VIEWER, list_breakers),
    guarded.Route("POST", "/api/v1/automation/breakers/{service}/reset", Right.OPERATOR, reset_breaker),
    guarded.Route("GET", "/api/v1/whoami", Right.TOKEN, whoami),
    guarded.Route("GET", "/api/v1/tokens", Right.ADMIN, list_tokens),
    guarded.Route("POST", "/api/v1/tokens", Right.ADMIN, create_token, status=201),
    guarded.Route("DELETE", "/api/v1/tokens/{name}", Right.ADMIN, revoke_token, status=204),
)
