"""Set up webhooks, see what became of notifications, and what people want of them."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce, Lower
from django.http import HttpRequest, HttpResponse
from django.utils.formats import localize
from django.utils.html import format_html

from licenses.models import Delivery, Event, NotificationPreference, Tool, Webhook
from licenses.notifications import messages as texts
from licenses.notifications import outbox, webhooks

from . import names
from .audited import AuditedAdmin, actor_of
from .read_only import ReadOnlyAdmin
from .rights import SuperusersOnly
from .secret import secret_page

SIGNATURES = (
    "The receiver checks the signature of each message with it, as described by Standard Webhooks. "
    "Slack, Teams and Mattermost do not need it."
)
CHOSEN = [(event.value, event.label) for event in Event if event not in {Event.TEST, *outbox.BY_MAIL_ONLY}]


class WebhookForm(forms.ModelForm[Webhook]):
    """A webhook, whose address is entered and never shown."""

    address = forms.CharField(
        max_length=webhooks.LONGEST_URL,
        required=False,
        widget=forms.TextInput(attrs={"size": 80, "autocomplete": "off", "spellcheck": "false"}),
    )
    events = forms.MultipleChoiceField(choices=CHOSEN, required=False, widget=forms.CheckboxSelectMultiple)

    class Meta:
        model = Webhook
        fields = ["name", "kind", "address", "events", "for_people", "enabled"]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if "address" not in self.fields:
            # The page is only read.
            return
        is_new = self.instance.pk is None
        self.fields["address"].required = is_new
        kept = f" Empty = the address at {self.instance.host} stays." if not is_new else ""
        self.fields["address"].help_text = f"https://... It is not shown again, because it gives access.{kept}"
        self.fields["events"].help_text = Webhook._meta.get_field("events").help_text

    def clean_address(self) -> str:
        url: str = self.cleaned_data["address"]
        if url:
            webhooks.check_url(url)
        return url


@admin.register(Webhook)
class WebhookAdmin(SuperusersOnly, AuditedAdmin[Webhook]):
    form = WebhookForm
    list_display = ["name", "kind", "host", "event_names", "for_people", "enabled"]
    list_filter = ["kind", "enabled"]
    search_fields = ["name", "host"]
    readonly_fields = ["host"]
    fields = ["name", "kind", "address", "host", "events", "for_people", "enabled"]
    actions = ["send_a_test", "make_new_secret"]

    def get_fields(self, request: HttpRequest, obj: Webhook | None = None) -> Any:
        hidden = {"host"} if obj is None else set() if self.has_change_permission(request, obj) else {"address"}
        return [name for name in self.fields if name not in hidden]

    def has_action_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may use the actions."""
        return self.has_change_permission(request)

    @admin.display(description="events")
    def event_names(self, webhook: Webhook) -> str:
        return "; ".join(Event(event).label for event in webhook.events) or "-"

    def save_model(self, request: HttpRequest, obj: Webhook, form: Any, change: bool) -> None:
        secret = webhooks.save(obj, url=form.cleaned_data["address"], by=actor_of(request))
        request.secret_of_webhook = secret  # type: ignore[attr-defined]

    def response_add(self, request: HttpRequest, obj: Webhook, post_url_continue: str | None = None) -> HttpResponse:
        secret = request.secret_of_webhook  # type: ignore[attr-defined]
        return secret_page(self, request, obj, secret=secret, use=SIGNATURES)

    @admin.action(description="Send a test", permissions=["action"])
    def send_a_test(self, request: HttpRequest, queryset: QuerySet[Webhook]) -> None:
        for webhook in queryset:
            if webhook.enabled:
                outbox.record_test(webhook, by=request.user.get_username())
                text = f"The sweeper sends a test to {webhook} in its next round. See Deliveries."
                self.message_user(request, text, messages.SUCCESS)
            else:
                self.message_user(request, f"The webhook {webhook} is disabled.", messages.WARNING)

    @admin.action(description="Make a new secret", permissions=["action"])
    def make_new_secret(self, request: HttpRequest, queryset: QuerySet[Webhook]) -> HttpResponse | None:
        if queryset.count() != 1:
            self.message_user(request, "Select one webhook. No secret was changed.", messages.ERROR)
            return None
        webhook = queryset.get()
        secret = webhooks.renew_secret(webhook, by=actor_of(request))
        return secret_page(self, request, webhook, secret=secret, use=SIGNATURES)


class ChannelFilter(admin.SimpleListFilter):
    title = parameter_name = "channel"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("mail", "Mail"), ("webhook", "Webhook")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> QuerySet[Delivery]:
        if self.value() in {"mail", "webhook"}:
            return queryset.filter(webhook__isnull=self.value() == "mail")
        return queryset


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    goes_with_parent = True
    fields = [
        "event",
        "user",
        "tool",
        "message",
        "to",
        "state",
        "attempts",
        "answer",
        "created",
        "next_attempt",
        "closed_at",
    ]
    list_display = [
        "created",
        "event",
        "to",
        "state",
        "attempts",
        "answer",
        "next_attempt",
        "closed_at",
        "user",
        "tool",
    ]
    list_filter = ["state", ChannelFilter, "notification__event", "webhook"]
    list_select_related = ["notification", "webhook"]
    search_fields = ["address", "webhook__name", "notification__user", "notification__tool", "tool_display_name"]
    actions = ["send_again"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delivery]:
        # A notification has the name of its tool, and no key.
        of_tool = Tool.objects.filter(name=OuterRef("notification__tool")).exclude(display_name="")
        shown = Subquery(of_tool.values("display_name"))
        rows: QuerySet[Delivery] = super().get_queryset(request).annotate(tool_display_name=shown)
        return rows

    @admin.display(description="created", ordering="notification__created_at")
    def created(self, delivery: Delivery) -> str:
        return localize(delivery.notification.created_at)

    @admin.display(ordering="notification__event")
    def event(self, delivery: Delivery) -> str:
        return Event(delivery.notification.event).label

    @admin.display(ordering="notification__user")
    def user(self, delivery: Delivery) -> str:
        return delivery.notification.user or "(administrators)"

    @admin.display(ordering=Lower(Coalesce("tool_display_name", "notification__tool")))
    def tool(self, delivery: Any) -> str:
        return names.both(delivery.tool_display_name, delivery.notification.tool) or "-"

    @admin.display(description="to")
    def to(self, delivery: Delivery) -> str:
        return delivery.address or f"{delivery.webhook} (webhook)"

    @admin.display(description="next attempt", ordering="due_at")
    def next_attempt(self, delivery: Delivery) -> str:
        return localize(delivery.due_at) if delivery.closed_at is None else "-"

    @admin.display
    def message(self, delivery: Delivery) -> str:
        message = texts.write(delivery.notification)
        return format_html("<b>{}</b><br>{}", message.title, message.text)

    def has_send_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may send again."""
        return request.user.has_perm("licenses.change_delivery")

    @admin.action(description="Send again", permissions=["send"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        again = outbox.send_again(queryset)
        self.message_user(
            request, f"{again} of the selected are sent again: those that were given up and are still of use."
        )


class PreferenceForm(forms.ModelForm[NotificationPreference]):
    """One choice of a person."""

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        webhook = cleaned.get("webhook")
        if webhook is not None and not webhook.for_people:
            raise ValidationError({"webhook": "People cannot choose this webhook."})
        if webhook is not None and cleaned.get("event") in outbox.BY_MAIL_ONLY:
            raise ValidationError({"webhook": "This comes only by mail."})
        return cleaned


@admin.register(NotificationPreference)
class NotificationPreferenceAdmin(AuditedAdmin[NotificationPreference]):
    goes_with_parent = True
    form = PreferenceForm
    fields = ["account", "event", "webhook", "wanted"]
    list_display = ["account", "event", "channel", "wanted"]
    list_filter = ["event", "wanted", "webhook"]
    list_select_related = ["account", "webhook"]
    search_fields = ["account__username"]
    autocomplete_fields = ["account", "webhook"]

    @admin.display(ordering="webhook")
    def channel(self, preference: NotificationPreference) -> str:
        return str(preference.webhook) if preference.webhook else "mail"
