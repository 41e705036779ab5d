"""All routes of AUTOMATIC1111's API, with what they share: the models that keys have chosen."""

from __future__ import annotations

from fastapi import APIRouter

from server.api import openapi
from server.api.sdapi import controlnet, extras, lists, pictures, upkeep
from server.api.sdapi.choices import ModelChoices
from server.api.services import Services


def router(services: Services) -> APIRouter:
    """Every route under ``/sdapi/v1`` and ``/controlnet``, and ``/internal/ping``; none of them where the setting
    ``sdapi`` is off."""
    choices = ModelChoices()
    routes = APIRouter(tags=["sdapi"], dependencies=[openapi.KEY], include_in_schema=False)
    if not services.settings.sdapi:
        return routes
    for included in (
        pictures.router(services, choices),
        lists.router(services, choices),
        upkeep.router(services, choices),
        extras.router(services),
        controlnet.router(services, choices),
    ):
        routes.include_router(included)
    return routes
