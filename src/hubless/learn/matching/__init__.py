"""Networks whose units are put into each other's places before they are averaged."""
