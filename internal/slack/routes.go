package slack

// The paths that there are. template.yaml has a route for each.
const (
	routeCommand     = "/slack/command"
	routeInteraction = "/slack/interaction"
)
