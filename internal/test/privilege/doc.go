// Package privilege compares the roles in template.yaml with the calls that their
// holders make. Read it in this order:
//
//   - table.go has the permissions that each API call needs, with the source;
//   - platform.go has the permissions that AWS services use with our roles;
//   - granted.go reads the permissions of each role from the template;
//   - decode.go reads the API calls from a request;
//   - record.go is a proxy between a function and AWS that records its calls, and refuses
//     those that its role does not grant, as IAM does.
//
// A role must grant exactly what its holder's calls and the platform need. The test of
// this is in package system, where every function and the task run as compiled programs.
//
// Resources and conditions have the form of template.yaml, without the common start:
// "task/${Cluster}/*" means
// arn:${AWS::Partition}:ecs:${AWS::Region}:${AWS::AccountId}:task/${Cluster}/*. A resource
// of the template has its name there, such as "RecordsTable" for its ARN. If its Ref is
// the ARN, as for an alias, it has brackets: "${SlackQueue}".
package privilege
