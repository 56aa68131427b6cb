"""Django REST framework: views, a serializer that validates, and connections that stay open."""

from datetime import UTC, datetime

from django.core.wsgi import get_wsgi_application
from django.db import IntegrityError, models
from django.shortcuts import get_object_or_404
from django.urls import path
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import ModelSerializer
from rest_framework.views import APIView

# Models can be made only when Django is set up, which this does.
application = get_wsgi_application()


def this_second() -> datetime:
    """Return the time without its fraction."""
    return datetime.now(UTC).replace(microsecond=0)


class User(models.Model):
    """A user."""

    id = models.BigAutoField(primary_key=True)
    username = models.CharField(max_length=128)
    email = models.EmailField(max_length=128)
    active = models.BooleanField(default=True)
    created_date = models.DateTimeField(default=this_second)

    class Meta:
        """Name the table."""

        app_label = "users"
        db_table = "users"


class UserSerializer(ModelSerializer):
    """Take a user's members in, and show them."""

    class Meta:
        """Name the members."""

        model = User
        fields = ("id", "username", "email", "active", "created_date")
        read_only_fields = ("id", "created_date")


class Ping(APIView):
    """Whether the service is there."""

    def get(self, request: Request) -> Response:
        """Say that the service is there."""
        return Response({"status": "success", "message": "pong!"})


class UserList(APIView):
    """All users."""

    def get(self, request: Request) -> Response:
        """List users."""
        users = UserSerializer(User.objects.order_by("id")[:100], many=True)
        return Response({"status": "success", "data": {"users": users.data}})

    def post(self, request: Request) -> Response:
        """Add a user."""
        new = UserSerializer(data=request.data)
        new.is_valid(raise_exception=True)
        try:
            new.save()
        except IntegrityError:
            raise ValidationError("Sorry. That email already exists.") from None
        message = f"{new.data['email']} was added!"
        return Response({"status": "success", "message": message, "data": new.data}, status=201)


class UserDetail(APIView):
    """One user."""

    def get(self, request: Request, user_id: int) -> Response:
        """Show a user."""
        user = get_object_or_404(User, pk=user_id)
        return Response({"status": "success", "data": UserSerializer(user).data})


urlpatterns = [
    path("ping", Ping.as_view()),
    path("users", UserList.as_view()),
    path("users/<int:user_id>", UserDetail.as_view()),
]
